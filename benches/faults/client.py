"""The client: sends queries at a steady pace over UDP, never twice, and notes what became of each."""

import selectors
import socket
import struct
import threading
import time

# after this time glibc's resolver has given up on an answer
LIMIT = 5.0
# and after this time most people have noticed
SLOW = 1.0
# as many clients: when a fault is over, hundreds of answers come at once, more than the buffer of one socket takes
SOCKETS = 16


def query(number, name):
    """A query for an A record; `number` is its ID."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def dropped(ports):
    """How many packets the kernel could not put into the buffers of sockets with these ports (proc(5))."""
    lines = [line.split() for line in open("/proc/net/udp", encoding="ascii")][1:]
    return sum(int(line[-1]) for line in lines if int(line[1].split(":")[1], 16) in ports)


class Load:
    """Queries to one port, and their outcomes. Every name is new, so that no cache can answer."""

    def __init__(self, port, label):
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOCKETS)]
        self.readable = selectors.DefaultSelector()
        for one in self.sockets:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
            self.readable.register(one, selectors.EVENT_READ)
        self.port = port
        self.label = label
        self.sent = []  # (time, question) by ID
        self.answers = {}  # ID: (time, response code, whether an address is in it)
        self.impossible = []  # (from, to): times within which no server can answer
        self.strange = 0  # packets that answer nothing that was asked, and second answers
        # the client's own faults: the most that a query was sent behind its time, and answers that it had no room for
        self.late_by = 0.0
        self.dropped = 0
        self.over = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while not self.over:
            for key, _ in self.readable.select(0.1):
                try:
                    self._received(key.fileobj.recv(4096), time.monotonic())
                except OSError:
                    continue  # the program is not there

    def _received(self, packet, now):
        number = int.from_bytes(packet[:2], "big")
        known = len(packet) > 12 and number < len(self.sent) and number not in self.answers
        if known and packet[12 : 12 + len(self.sent[number][1])] == self.sent[number][1]:
            self.answers[number] = (now, packet[3] & 15, packet[7] > 0)
        else:
            self.strange += 1

    def send(self):
        """Sends one query and gives its number."""
        number = len(self.sent)
        packet = query(number, f"n{number}.{self.label}.example.net")
        self.sent.append((time.monotonic(), packet[12:]))
        try:
            self.sockets[number % SOCKETS].sendto(packet, ("127.0.0.1", self.port))
        except OSError:
            pass  # the program is not there: the query has no answer, as the outcome will say
        return number

    def pace(self, rate, seconds):
        """Sends `rate` queries a second for so long."""
        start = time.monotonic()
        for turn in range(int(rate * seconds)):
            due = start + turn / rate
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self.late_by = max(self.late_by, time.monotonic() - due)
            self.send()

    def ask(self, limit=LIMIT):
        """Sends one query and waits for its answer; the seconds it took, or None."""
        number = self.send()
        end = time.monotonic() + limit
        while number not in self.answers:
            if time.monotonic() >= end:
                return None
            time.sleep(0.0005)
        return self.answers[number][0] - self.sent[number][0]

    def finish(self):
        """Waits until every query has its answer or none will count any more."""
        while self.sent and len(self.answers) < len(self.sent):
            if time.monotonic() - self.sent[-1][0] > LIMIT:
                break
            time.sleep(0.02)
        self.close()

    def close(self):
        """Ends it at once."""
        self.over = True
        self.reader.join()
        self.dropped = dropped({one.getsockname()[1] for one in self.sockets})
        self.readable.close()
        for one in self.sockets:
            one.close()

    def outcome(self):
        """The figures. Queries sent when no server could answer are counted apart."""
        figures = dict(
            sent=len(self.sent),
            lost=0,
            servfail=0,
            slow=0,
            slowest_ms=0.0,
            strange=self.strange,
            apart=0,
            apart_answered=0,
        )
        figures["late_by_ms"] = round(self.late_by * 1000, 1)
        figures["dropped"] = self.dropped
        for number, (at, _) in enumerate(self.sent):
            answered, code, has_address = self.answers.get(number, (None, None, None))
            took = None if answered is None else answered - at
            in_time = took is not None and took <= LIMIT
            good = in_time and code == 0 and has_address
            if any(begin <= at < end for begin, end in self.impossible):
                figures["apart"] += 1
                figures["apart_answered"] += good
                continue
            if not in_time:
                figures["lost"] += 1
            elif not good:
                figures["servfail"] += 1
            else:
                figures["slowest_ms"] = max(figures["slowest_ms"], took * 1000)
                figures["slow"] += took > SLOW
        figures["slowest_ms"] = round(figures["slowest_ms"], 1)
        return figures

"""The rows: what goes wrong, under which load. Each is played to a program just started, with servers of its own."""

import threading
import time

import client
from upstream import ANSWER_AFTER_MS

# in seconds, with what the way through the program takes
ANSWER_AFTER = (ANSWER_AFTER_MS + 5) / 1000


def at_times(times, act):
    """Does `act` at these times from now, in seconds, beside the load."""
    start = time.monotonic()

    def play():
        for due in times:
            time.sleep(max(0.0, start + due - time.monotonic()))
            act()

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    return thread


def reset(upstream, load):
    resets = at_times([0.5 + second for second in range(10)], lambda: upstream.do("all rst"))
    load.pace(2000, 10)
    resets.join()


def silence(upstream, load):
    silences = at_times([2.0], lambda: upstream.do("all silence"))
    load.pace(500, 10)
    silences.join()


def hole(upstream, load):
    holes = at_times([2.0], lambda: upstream.do("0 hole 5"))
    load.pace(500, 12)
    holes.join()


def closing(upstream, load):
    upstream.do("all close-after-answer")
    for _ in range(50):
        load.ask()
    load.pace(100, 10)


def idle(upstream, load):
    upstream.do("all idle-limit 2")
    for _ in range(10):
        time.sleep(3)
        load.ask()


def restart(upstream, load, seconds=10):
    """Both servers go away for 3 s."""

    def down():
        # what the servers have and have not answered yet goes with them
        begin = time.monotonic() - ANSWER_AFTER
        upstream.do("all down")
        time.sleep(3)
        upstream.do("all up")
        load.impossible.append((begin, time.monotonic()))

    downs = at_times([2.0], down)
    load.pace(200, seconds)
    downs.join()


def afterwards(upstream, load):
    """Every fault once, then 10 s of nothing, then one query, which alone counts."""
    faults = client.Load(load.port, load.label + "f")
    resets = at_times([1.0], lambda: upstream.do("all rst"))
    silences = at_times([2.0], lambda: upstream.do("all silence"))
    holes = at_times([4.0], lambda: upstream.do("0 hole 3"))
    faults.pace(200, 9)
    for thread in (resets, silences, holes):
        thread.join()
    restart(upstream, faults, 7)
    faults.finish()
    time.sleep(10)
    upstream.count_from_now()
    load.ask()


class Row:
    """One row: its key, what it says, and what is played."""

    def __init__(self, key, text, play, together=False):
        self.key = key
        self.text = text
        self.play = play
        # whether the load is so light that all programs are measured at the same time
        self.together = together

    def run(self, upstream, program, label):
        """Plays the row; gives its figures."""
        load = client.Load(program.port, label)
        upstream.count_from_now()
        self.play(upstream, load)
        load.finish()
        return {**load.outcome(), **upstream.counted(), "ended": not program.lives()}


ROWS = [
    Row("reset", "all connections reset, once a second for 10 s; 2,000 queries a second", reset),
    Row("silence", "all open connections silent for good, new ones work; 500 queries a second, 10 s", silence),
    Row("hole", "the first of two servers a black hole for 5 s; 500 queries a second, 12 s", hole),
    Row("closing", "connection closed after each answer; 50 queries in turn, then 100 a second, 10 s", closing),
    Row("restart", "both servers away for 3 s, connections closed, port refused; 200 queries a second, 10 s", restart),
    Row("idle", "connections closed when idle for 2 s; a query every 3 s, 10 queries", idle, together=True),
    Row("afterwards", "one query, 10 s after a reset, silence, a black hole and a restart", afterwards, together=True),
]

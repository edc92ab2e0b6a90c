"""The resolvers behind the programs: `cargo xtask fault-server`, two servers that go wrong on command."""

import json
import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# how long a path to a resolver may well be: with answers at once hardly any query would meet a fault
ANSWER_AFTER_MS = 10


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))


def build():
    """Builds the server; gives the program."""
    subprocess.run(["cargo", "build", "--quiet", "--package", "xtask"], cwd=PROJECT, check=True)
    return target() / "debug" / "xtask"


class Upstream:
    """Two servers with addresses and ports of their own, under one certificate."""

    def __init__(self, program, ca_file):
        command = [program, "fault-server", "--ca-file", ca_file, "--answer-after", str(ANSWER_AFTER_MS)]
        command += ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._line()
        self.name = said["name"]
        # (address, port) in order of preference
        self.servers = [(at.rsplit(":", 1)[0], int(at.rsplit(":", 1)[1])) for at in said["servers"]]
        ca_file.chmod(0o644)
        self.count_from_now()

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the fault server has ended")
        said = json.loads(line)
        if "error" in said:
            raise RuntimeError(said["error"])
        return said

    def do(self, command):
        """Has a command done, such as `all rst`; gives what the server says."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._line()

    def _counts(self):
        each = self.do("counts")
        return {key: sum(one[key] for one in each) for key in ("connections", "full", "resumed", "queries")}

    def count_from_now(self):
        """What was seen until now does not count."""
        self.before = self._counts()

    def counted(self):
        """What both servers have seen since then, added up."""
        return {key: value - self.before[key] for key, value in self._counts().items()}

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)

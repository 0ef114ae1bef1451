"""One row of the matrix: a server under hotswap, its clients, its swaps, and what is left of it all."""

import collections
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

from clients import Crowd, Datagrams, FastCgi, Http, Redis, WebSocket

HERE = pathlib.Path(__file__).parent
KINDS = ["new", "new", "hesitating", "slow", "kept", "kept"]
# A query for the address of "site.test", as DNS has it.
DNS_QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04site\x04test\x00\x00\x01\x00\x01"


class Skipped(Exception):
    """Why a row could not be run here."""


class Result:
    """What a row has to say."""

    def __init__(self):
        self.problem = None
        self.version = ""
        self.swaps = 0
        self.tally = None
        self.ready = self.ended = ""
        self.leftovers = []

    @property
    def failed(self):
        return sum(self.tally.failures.values()) if self.tally else 0

    @property
    def good(self):
        return self.problem is None and not self.failed and not self.leftovers


def run(row, hotswap, tools, swaps):
    """Runs the row in a directory of its own."""
    for program in row.get("needs", []):
        if not shutil.which(program, path=tools["PATH"]):
            raise Skipped(f"no {program} here")
    # Short, for the sake of unix paths.
    with tempfile.TemporaryDirectory(prefix="row", dir="/tmp") as name:
        return Trial(row, hotswap, tools, pathlib.Path(name)).run(swaps)


class Trial:
    def __init__(self, row, hotswap, tools, place):
        self.row, self.hotswap = row, hotswap
        # What is written beside the server's own files would be a change to a server that is watched with all of them.
        self.place, self.log, self.runtime = place / "dir", place / "log", place / "run"
        self.place.mkdir()
        self.runtime.mkdir(mode=0o700)
        # Some give up their privileges.
        place.chmod(0o711)
        self.environment = {
            **tools,
            "DIR": str(self.place),
            "HOTSWAP_NAME": "row",
            "XDG_RUNTIME_DIR": str(self.runtime),
            **self.told(row.get("env", {})),
        }
        self.child = None

    def told(self, value):
        """The same with the row's directory in it."""
        if isinstance(value, dict):
            return {key: self.told(part) for key, part in value.items()}
        return value.replace("{dir}", str(self.place))

    def run(self, swaps):
        result = Result()
        for name in self.row.get("files", []):
            text = (HERE / name).read_text().replace("{dir}", str(self.place))
            (self.place / pathlib.Path(name).name).write_text(text)
        for command in self.row.get("setup", []):
            self.set_up(command)
        result.version = self.version()
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                ["sh", "-c", "exec " + self.told(self.row["command"])],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=(self.runtime.parent / "stdout").open("wb"),
                stderr=log,
            )
        try:
            result.problem = self.swap(result, swaps)
        finally:
            stopped = self.stop()
        result.problem = result.problem or stopped
        self.read_words(result)
        result.leftovers += self.leftovers()
        if "KEEP_LOG" in os.environ:
            print(self.said())
        if result.problem:
            result.problem += "".join("\n    | " + line for line in self.said().splitlines()[-12:])
        return result

    def set_up(self, command):
        done = subprocess.run(
            command, shell=True, cwd=self.place, env=self.environment, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise Skipped(f"{command!r} failed: {(done.stderr or done.stdout).strip()[-200:]}")

    def version(self):
        if "version" not in self.row:
            return ""
        done = subprocess.run(
            self.row["version"], shell=True, env=self.environment, cwd=self.place, capture_output=True, text=True, timeout=60
        )
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return found[0] if found else ""

    def said(self):
        return self.log.read_text(errors="replace")

    def address(self):
        """Where the clients go."""
        address = self.told(self.row["address"])
        if "/" in address:
            return address
        host, _, port = address.partition(":")
        return host, int(port or 0)

    def crowd(self):
        row, kinds = self.row, self.row.get("kinds", KINDS)
        protocol = row.get("protocol", "http")
        if protocol == "dns":
            return Datagrams(self.address(), DNS_QUERY, 3)
        if protocol == "http":
            return Crowd(self.address(), Http(row.get("path", "/"), row.get("slow"), row.get("expect", "")), kinds)
        if protocol == "fastcgi":
            return Crowd(self.address(), FastCgi(str(self.place / row["path"]), row["expect"]), kinds)
        return Crowd(self.address(), {"redis": Redis, "websocket": WebSocket}[protocol](), kinds)

    def swap(self, result, swaps):
        """Swaps under load; what went wrong, if anything did."""
        if not self.eventually(lambda: "generation 1 is serving" in self.said()):
            return "the first generation does not serve"
        # One that needs long before it binds is taken for a worker without a port, and serves before it listens.
        if self.row["address"] and not self.eventually(lambda: "listening on" in self.said()):
            return "nothing listens"
        crowd, descriptors = self.crowd(), 0
        try:
            for number in range(1, swaps + 1):
                if not self.is_answered(crowd):
                    return f"no answers before swap {number}: {dict(crowd.tally.failures)}"
                command = [self.hotswap, "swap", "row", "--drained", "--timeout", "60s"]
                done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
                if done.returncode:
                    return f"swap {number} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
                result.swaps = number
                if number == swaps - swaps // 2:
                    descriptors = self.descriptors()
            if not self.is_answered(crowd):
                return "no answers after the last swap"
            grown = self.descriptors() - descriptors
            # A captured group grows at first; what still grows with every swap would never end.
            if swaps >= 40 and grown >= swaps // 2:
                result.leftovers.append(f"{grown} descriptors more")
            return None
        finally:
            result.tally = crowd.leave()

    @staticmethod
    def is_answered(crowd):
        return not crowd.threads or crowd.until_answered(20)

    def eventually(self, condition, patience=40):
        deadline = time.monotonic() + patience
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                return condition()
            time.sleep(0.02)
        return True

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            status = self.child.wait(45)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            return "hotswap did not stop"
        return f"hotswap ended with {status}" if status else None

    def read_words(self, result):
        """How ready was known and how the generations ended, in hotswap's own words."""
        said = self.said()
        ready = re.findall(r"is serving \((.*) after ([\d.]+)(ms|s)\)", said)
        times = [float(number) * (1000 if unit == "s" else 1) for _, number, unit in ready]
        if times:
            result.ready = f"{summary(how for how, _, _ in ready)}, {statistics.median(times):.0f}ms"
        result.ended = summary(re.findall(r"is gone after \S+ \((.*)\)", said))

    def leftovers(self):
        """Processes and paths that hotswap should have ended and unlinked."""
        left = []
        for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"DIR={self.place}".encode() in environ.read_bytes().split(b"\0"):
                    pid = int(environ.parent.name)
                    left.append("process " + (environ.parent / "comm").read_text().strip())
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        paths = [*self.place.rglob("*.hotswap-*"), *self.runtime.rglob("*.sock")]
        if "/" in self.row["address"] and os.path.exists(self.address()):
            paths.append(pathlib.Path(self.address()))
        return left + [f"path {path.name}" for path in paths]


def summary(words):
    """`a`, or `18 a, 2 b`."""
    counted = collections.Counter(words).most_common()
    if len(counted) == 1:
        return counted[0][0]
    return ", ".join(f"{number} {word}" for word, number in counted)


def is_taken(address):
    """Whether somebody listens there already, so that a row would disturb him."""
    if not address or "/" in address:
        return False
    host, port = address.rsplit(":", 1)
    with socket.socket() as seeker:
        return seeker.connect_ex((host, int(port))) == 0

"""One row of the matrix: a server under hotswap, its clients, its swaps, and what is left of it all."""

import collections
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from clients import Crowd, Datagrams
from protocols import FastCgi, Http, Http2, Redis, WebSocket

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
        self.ready = self.signal = self.ended = ""
        # By how many seconds the first verdict followed the first answer, and how long the first answers after swaps took.
        self.late, self.answered = None, []
        self.leftovers = []

    @property
    def failed(self):
        return sum(self.tally.failures.values()) if self.tally else 0

    @property
    def good(self):
        """A server that dies of its stop signal may do so amid an answer that was asked for just then; not often."""
        few = self.tally is None or self.tally.cut_short <= self.swaps // 10
        return self.problem is None and not self.failed and few and not self.leftovers


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
            # Else it does not name the signal that it sends.
            "HOTSWAP_VERBOSE": "1",
            "XDG_RUNTIME_DIR": str(self.runtime),
            **self.told(row.get("env", {})),
        }
        self.child = None
        self.beside = []

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
        try:
            self.beside = [self.started(command, "beside") for command in self.row.get("beside", [])]
            self.child = self.started(self.row["command"], "log")
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
            self.told(command), shell=True, cwd=self.place, env=self.environment, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise Skipped(f"{command!r} failed: {(done.stderr or done.stdout).strip()[-200:]}")

    def started(self, command, log):
        """The command, in the row's directory; hotswap and the server both write to the log."""
        with (self.runtime.parent / "stdout").open("ab") as stdout, (self.runtime.parent / log).open("ab") as stderr:
            return subprocess.Popen(
                ["sh", "-c", "exec " + self.told(command)],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def version(self):
        if "version" not in self.row:
            return ""
        done = subprocess.run(
            self.told(self.row["version"]), shell=True, env=self.environment, cwd=self.place, capture_output=True, text=True, timeout=60
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

    def protocol(self):
        row = self.row
        match row.get("protocol", "http"):
            case "http":
                return Http(row.get("path", "/"), row.get("slow"), row.get("expect", ""))
            case "http2":
                return Http2(row.get("path", "/"), row.get("slow"), row.get("expect", ""), row.get("message"))
            case "fastcgi":
                return FastCgi(str(self.place / row["path"]), row["expect"])
            case "redis":
                return Redis()
            case "websocket":
                return WebSocket()

    def crowd(self, kinds):
        if self.row.get("protocol") == "dns":
            return Datagrams(self.address(), DNS_QUERY, kinds)
        return Crowd(self.address(), self.protocol(), kinds)

    def swap(self, result, swaps):
        """Swaps under load; what went wrong, if anything did."""
        serves = self.first_start(result)
        if not serves:
            return "the first generation does not serve"
        # One that needs long before it binds is taken for a worker without a port, and serves before it listens.
        if self.row["address"] and not self.eventually(lambda: "listening on" in self.said()):
            return "nothing listens"
        crowd, descriptors = self.crowd(self.row.get("kinds", KINDS if self.row["address"] else [])), 0
        try:
            for number in range(1, swaps + 1):
                if not self.is_answered(crowd):
                    return f"no answers before swap {number}: {dict(crowd.tally.failures)}"
                if problem := self.swap_once(number, crowd, result):
                    return problem
                result.swaps = number
                if number == swaps - swaps // 2:
                    descriptors = self.descriptors()
            if not self.is_answered(crowd):
                return "no answers after the last swap"
            if swaps >= 20 and self.descriptors() - descriptors >= swaps // 2:
                # Sockets are parked for 3s, and let go in the swap after that: what is left of them then is left for ever.
                time.sleep(4)
                if problem := self.swap_once(swaps + 1, crowd, result):
                    return problem
                if (more := self.descriptors() - descriptors) >= swaps // 2:
                    result.leftovers.append(f"{more} descriptors more")
            return None
        finally:
            result.tally = crowd.leave()

    def swap_once(self, number, crowd, result):
        """From the one before to that after this; what went wrong, if anything did."""
        command = [self.hotswap, "swap", "row", "--timeout", "60s"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            return f"swap {number} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        self.ask_at_once(crowd, result)
        if not self.eventually(lambda: self.said().count("is gone after") >= number):
            return f"the generation before swap {number} does not end"
        return None

    def first_start(self, result):
        """Whether the first generation is said to serve; asked all the time, it tells how right that is."""
        answered = []

        def ask():
            scout = self.crowd([])
            while not scout.tally.answers and not gone.is_set():
                scout.once(None, "new")
                time.sleep(0.001)
            answered.append(time.monotonic())

        gone = threading.Event()
        asking = threading.Thread(target=ask, daemon=True)
        if self.row["address"]:
            asking.start()
        serves = self.eventually(lambda: "generation 1 is serving" in self.said(), pause=0.001)
        verdict = time.monotonic()
        if self.row["address"]:
            asking.join(20)
            gone.set()
        if serves and answered:
            result.late = verdict - answered[0]
        return serves

    def ask_at_once(self, crowd, result):
        """The verdict is there: how long the first answer takes that is asked for now."""
        if self.row["address"]:
            since = time.monotonic()
            crowd.once(None, "new")
            result.answered.append(time.monotonic() - since)

    @staticmethod
    def is_answered(crowd):
        return not crowd.threads or crowd.until_answered(20)

    def eventually(self, condition, patience=60, pause=0.02):
        deadline = time.monotonic() + patience
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                return condition()
            time.sleep(pause)
        return True

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def stop(self):
        try:
            return self.stop_hotswap() if self.child else None
        finally:
            for process in self.beside:
                process.terminate()
                process.wait()

    def stop_hotswap(self):
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
        result.signal = summary(re.findall(r"is asked to stop by SIG(\w+)", said))
        result.ended = summary(re.findall(r"is gone after \S+ \((.*)\)", said))

    def leftovers(self):
        """Processes and paths that hotswap should have ended and unlinked; its keeper ends when it finds it dead."""
        deadline = time.monotonic() + 5
        while (processes := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        left = []
        for pid, name in processes:
            left.append(f"process {name}")
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        paths = [*self.place.rglob("*.hotswap-*"), *self.runtime.rglob("*.sock")]
        if "/" in self.row["address"] and os.path.exists(self.address()):
            paths.append(pathlib.Path(self.address()))
        return left + [f"path {path.name}" for path in paths]

    def processes(self):
        """Those that live, with the names that they show."""
        found = []
        for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"DIR={self.place}".encode() in environ.read_bytes().split(b"\0"):
                    found.append((int(environ.parent.name), (environ.parent / "comm").read_text().strip()))
        return found


def summary(words):
    """`a`, or `18 a, 2 b`."""
    counted = collections.Counter(words).most_common()
    if len(counted) == 1:
        return counted[0][0]
    return ", ".join(f"{number} {word}" for word, number in counted) or "none"


def is_taken(address):
    """Whether somebody listens there already, so that a row would disturb him."""
    if not address or "/" in address:
        return False
    host, port = address.rsplit(":", 1)
    with socket.socket() as seeker:
        return seeker.connect_ex((host, int(port))) == 0

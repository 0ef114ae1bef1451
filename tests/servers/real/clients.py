"""Those who ask: new connections, kept ones, hesitating ones and slow requests, and how each of them fails.

A failure on a fresh connection is what a swap must never cause. A reused one that is closed before any byte of the
answer is counted apart: no wrapper can help it, and HTTP clients try again. So is one that is cut short, as a server that
ends without a graceful stop may do with what it was asked a moment before.
"""

import collections
import socket
import threading
import time

from protocols import Failed

PATIENCE = 20


class Conversation:
    """One connection and what has been read from it but not yet understood."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.buffer = b""
        self.begun = False
        self.answers = 0
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    def more(self):
        data = self.socket.recv(65536)
        self.buffer += data
        self.begun = self.begun or bool(data)
        return bool(data)

    def until(self, end):
        while end not in self.buffer:
            if not self.more():
                raise Failed("truncated" if self.begun else "eof")
        part, self.buffer = self.buffer.split(end, 1)
        return part

    def exactly(self, length):
        while len(self.buffer) < length:
            if not self.more():
                raise Failed("truncated" if self.begun else "eof")
        part, self.buffer = self.buffer[:length], self.buffer[length:]
        return part

    def close(self):
        self.socket.close()


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.answers = 0
        self.stale = 0
        self.cut_short = 0
        self.slowest = 0.0
        self.failures = collections.Counter()
        self.examples = []


class Crowd:
    """Threads that ask without pause until they are told to leave."""

    def __init__(self, address, protocol, kinds):
        self.address, self.protocol = address, protocol
        self.tally, self.leaving = Tally(), threading.Event()
        self.threads = [threading.Thread(target=self.stay, args=(kind,), daemon=True) for kind in kinds]
        for thread in self.threads:
            thread.start()

    def leave(self):
        self.leaving.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE)
        return self.tally

    def until_answered(self, more):
        """Whether so many more answers came in time."""
        goal, deadline = self.tally.answers + more, time.monotonic() + PATIENCE
        while self.tally.answers < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.tally.answers >= goal

    def stay(self, kind):
        conversation = None
        while not self.leaving.is_set():
            conversation = self.once(conversation, kind)
            # Within 40ms an answer may not have been acknowledged, so the connection is not quiet: a client that pauses for
            # less costs each swap all of --quiesce.
            time.sleep(0.07 if kind == "kept" else 0.002)
        if conversation:
            conversation.close()

    def once(self, conversation, kind):
        """One request; what is returned is kept for the next."""
        reused, since = conversation is not None, time.monotonic()
        try:
            if not reused:
                conversation = Conversation(self.address)
                if kind == "hesitating":
                    time.sleep(0.05)
            conversation.begun = False
            kept = self.protocol.ask(conversation, kind)
        except Failed as failed:
            self.failed(reused, str(failed), since)
        except ConnectionRefusedError:
            self.failed(False, "refused", since)
        except TimeoutError:
            self.failed(False, "timed out", since)
        except OSError as error:
            name = "reset" if isinstance(error, (ConnectionResetError, BrokenPipeError)) else str(error)
            begun = conversation is not None and conversation.begun
            self.failed(reused, "truncated" if begun else name, since)
        else:
            conversation.answers += 1
            with self.tally.lock:
                self.tally.answers += 1
                self.tally.slowest = max(self.tally.slowest, time.monotonic() - since)
            if kept and kind == "kept":
                return conversation
        if conversation:
            conversation.close()
        return None

    def failed(self, reused, kind, since):
        with self.tally.lock:
            if reused and kind in ("eof", "reset", "closed by the server"):
                self.tally.stale += 1
            elif reused and kind == "truncated":
                self.tally.cut_short += 1
            else:
                kind += " on a kept connection" if reused else ""
                self.tally.failures[kind] += 1
                self.tally.examples.append(f"{kind} after {time.monotonic() - since:.3f}s")


class Datagrams(Crowd):
    """The same over UDP: a datagram without an answer is a failure."""

    def __init__(self, address, query, kinds):
        self.query = query
        super().__init__(address, None, kinds)

    def once(self, conversation, kind):
        since = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(self.address)
            try:
                client.send(self.query)
                client.recv(4096)
            except OSError as error:
                self.failed(False, type(error).__name__, since)
                return
        with self.tally.lock:
            self.tally.answers += 1
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - since)

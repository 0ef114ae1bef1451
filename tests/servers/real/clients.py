"""Those who ask: new connections, kept ones, hesitating ones and slow requests, and how each of them fails.

A failure on a fresh connection is what a swap must never cause. A reused one that is closed before any byte of the
answer is counted apart: no wrapper can help it, and HTTP clients try again.
"""

import collections
import socket
import struct
import threading
import time

PATIENCE = 20


class Failed(Exception):
    """One request, with the kind of its failure and what the answer looked like."""


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


class Http:
    """HTTP/1.1, as far as a client needs it that only wants to know whether it was answered whole."""

    def __init__(self, path="/", slow=None, expect=""):
        self.paths = {"slow": slow or path}
        self.path, self.expect = path, expect.encode()

    def ask(self, conversation, kind):
        path = self.paths.get(kind, self.path)
        connection = "keep-alive" if kind == "kept" else "close"
        head = f"GET {path} HTTP/1.1\r\nHost: site\r\nConnection: {connection}\r\n\r\n"
        conversation.socket.sendall(head.encode())
        status, *lines = conversation.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self.body(conversation, fields)
        version, code = status.split(" ")[:2]
        if code[0] not in "123":
            raise Failed(f"status {code}")
        if kind != "slow" and self.expect not in body:
            raise Failed(f"unexpected answer {body[:60]!r}")
        kept = fields.get("connection", "").lower()
        return kept == "keep-alive" or (kept != "close" and version == "HTTP/1.1")

    @staticmethod
    def body(conversation, fields):
        if "content-length" in fields:
            return conversation.exactly(int(fields["content-length"]))
        if fields.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while length := int(conversation.until(b"\r\n").split(b";")[0], 16):
                body += conversation.exactly(length)
                conversation.exactly(2)
            conversation.until(b"\r\n")
            return body
        fields["connection"] = "close"
        while conversation.more():
            pass
        return conversation.buffer


class Redis:
    """PING, which every connection may repeat."""

    def ask(self, conversation, kind):
        conversation.socket.sendall(b"PING\r\n")
        if conversation.until(b"\r\n") != b"+PONG":
            raise Failed("unexpected answer")
        return kind == "kept"


class WebSocket:
    """A handshake, and an echo that is waited for."""

    def ask(self, conversation, kind):
        if not conversation.answers:
            conversation.socket.sendall(
                b"GET / HTTP/1.1\r\nHost: site\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            if b" 101 " not in conversation.until(b"\r\n\r\n"):
                raise Failed("no upgrade")
        # Masked by zeros, which leaves the text as it is.
        conversation.socket.sendall(b"\x81\x84\0\0\0\0ping")
        opcode, length = conversation.exactly(2)
        if (opcode, length) != (0x81, 4) or conversation.exactly(4) != b"ping":
            raise Failed("closed by the server" if opcode == 0x88 else "unexpected frame")
        return kind == "kept"


class FastCgi:
    """One GET, as a web server asks php-fpm."""

    def __init__(self, script, expect):
        self.script, self.expect = script, expect.encode()

    def ask(self, conversation, kind):
        names = {"SCRIPT_FILENAME": self.script, "REQUEST_METHOD": "GET", "REQUEST_URI": "/"}
        pairs = b"".join(bytes([len(name), len(value)]) + f"{name}{value}".encode() for name, value in names.items())
        begin = self.record(1, bytes([0, 1, kind == "kept", 0, 0, 0, 0, 0]))
        conversation.socket.sendall(begin + self.record(4, pairs) + self.record(4, b"") + self.record(5, b""))
        body = b""
        while True:
            _, what, _, length, padding, _ = struct.unpack(">BBHHBB", conversation.exactly(8))
            content = conversation.exactly(length + padding)[:length]
            if what == 6:
                body += content
            elif what == 3:
                break
        if self.expect not in body or b"Status: 5" in body:
            raise Failed(f"unexpected answer {body[:60]!r}")
        return kind == "kept"

    @staticmethod
    def record(what, content):
        return struct.pack(">BBHHBB", 1, what, 1, len(content), 0, 0) + content


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.answers = 0
        self.stale = 0
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
            conversation.buffer, conversation.begun = b"", False
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
            else:
                kind += " on a kept connection" if reused else ""
                self.tally.failures[kind] += 1
                self.tally.examples.append(f"{kind} after {time.monotonic() - since:.3f}s")


class Datagrams(Crowd):
    """The same over UDP: a datagram without an answer is a failure."""

    def __init__(self, address, query, count):
        self.query = query
        super().__init__(address, None, ["new"] * count)

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

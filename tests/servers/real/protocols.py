"""How each kind of server is asked, as far as a client needs it that only wants to know whether it was answered whole.

Every `ask` raises `Failed` or an `OSError` if not, and says whether the connection may be used again.
"""

import struct


class Failed(Exception):
    """One request, with the kind of its failure and what the answer looked like."""


class Http:
    """HTTP/1.1."""

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


class Http2:
    """HTTP/2 in the clear, with a header table that is never used; or gRPC over it, if a message is to be sent."""

    DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
    ACK = END_STREAM = 1
    END_HEADERS = 4

    def __init__(self, path="/", slow=None, expect="", message=None):
        self.paths = {"slow": slow or path}
        self.path, self.expect, self.message = path, expect.encode(), message

    def ask(self, conversation, kind):
        if not conversation.answers:
            hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, b"")
            conversation.socket.sendall(hello)
        stream = 2 * conversation.answers + 1
        conversation.socket.sendall(self.question(self.paths.get(kind, self.path), stream))
        body, going = self.answer(conversation, stream)
        if going and not body:
            # It came too late, which a client that reads all the time would have known.
            raise Failed("closed by the server")
        if kind != "slow" and self.expect not in body:
            raise Failed(f"unexpected answer {body[:60]!r}")
        return kind == "kept" and not going

    def question(self, path, stream):
        fields = {":method": "GET", ":scheme": "http", ":path": path, ":authority": "site"}
        if self.message is None:
            return self.frame(self.HEADERS, self.END_HEADERS | self.END_STREAM, stream, self.block(fields))
        fields |= {":method": "POST", "content-type": "application/grpc", "te": "trailers"}
        data = b"\0" + struct.pack(">I", len(self.message)) + self.message.encode()
        head = self.frame(self.HEADERS, self.END_HEADERS, stream, self.block(fields))
        return head + self.frame(self.DATA, self.END_STREAM, stream, data)

    def answer(self, conversation, stream):
        """What came on this stream, and whether the server takes no further one."""
        body, begun, going = b"", False, False
        while True:
            long, short, what, flags, number = struct.unpack(">BHBBI", conversation.exactly(9))
            content = conversation.exactly(long << 16 | short)
            # What is not of this stream is no part of the answer.
            conversation.begun = number == stream
            if what == self.SETTINGS and not flags & self.ACK:
                conversation.socket.sendall(self.frame(self.SETTINGS, self.ACK, 0, b""))
            elif what == self.PING and not flags & self.ACK:
                conversation.socket.sendall(self.frame(self.PING, self.ACK, 0, content))
            elif what == self.GOAWAY:
                going = True
                last, error = struct.unpack(">II", content[:8])
                if last < stream:
                    raise Failed("closed by the server" if not error else f"sent away with {error}")
            elif what == self.RESET and number == stream:
                raise Failed("truncated" if begun else "reset")
            elif number == stream:
                begun = True
                body += content if what == self.DATA else b""
                if flags & self.END_STREAM and what in (self.DATA, self.HEADERS):
                    return body, going

    @staticmethod
    def block(fields):
        """Each field as a literal that enters no table."""
        text = lambda value: bytes([len(value)]) + value.encode()
        return b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())

    @staticmethod
    def frame(what, flags, stream, content):
        return struct.pack(">BHBBI", len(content) >> 16, len(content) & 0xFFFF, what, flags, stream) + content


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

"""HTTP/2 frame by frame (RFC 9113), for callers that do what no gRPC library does: go silent half-way, never read."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_INITIAL_WINDOW_SIZE, _MAX_CONCURRENT_STREAMS = 0x4, 0x3
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        """Whether the other side says no more in this stream."""
        return self.kind == RST_STREAM or (self.kind in (DATA, HEADERS) and bool(self.flags & _END_STREAM))


class RawConnection:
    """One connection. Its requests are gRPC's; what follows on them is the test's to say.

    Attributes:
        socket: the socket, TLS where there is a CA.
    """

    def __init__(
        self, address: str, ca_file: Path | None, window: int = 65535, source: str = "127.0.0.1", timeout: float = 30
    ) -> None:
        """Connect, and open HTTP/2.

        Args:
            address: `host:port` of the server.
            ca_file: who vouches for it; None for plain text.
            window: how many bytes of a reply the server may send unasked.
            source: the address to call from; on Linux all of 127.0.0.0/8 is loopback.
            timeout: seconds after which nothing more is waited for.
        """
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout, (source, 0))
        self.socket: socket.socket = plain
        self._received = b""
        try:
            if ca_file is not None:
                context = ssl.create_default_context(cafile=str(ca_file))
                context.set_alpn_protocols(["h2"])
                self.socket = context.wrap_socket(plain, server_hostname=host)
            settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")
            self.socket.sendall(_PREFACE + _frame(SETTINGS, 0, 0, settings))
        except OSError:
            plain.close()
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        """The connection, which is closed in the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def begin(self, stream: int, path: str, metadata: Mapping[str, str]) -> None:
        """Send a request's headers, and nothing more."""
        fields = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "kubevend"}
        block = b"".join(map(_field, *zip(*{**fields, **_GRPC, **metadata}.items(), strict=True)))
        self.socket.sendall(_frame(HEADERS, _END_HEADERS, stream, block))

    def send(self, stream: int, message: bytes, *, end: bool = True) -> None:
        """Send a request's message."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self.send_raw(stream, framed, end=end)

    def send_raw(self, stream: int, piece: bytes, *, end: bool = False) -> None:
        """Send bytes of a message, which need not be all."""
        self.socket.sendall(_frame(DATA, _END_STREAM if end else 0, stream, piece))

    def reset(self, stream: int) -> None:
        """Take a request back (CANCEL)."""
        self.socket.sendall(_frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))

    def ping(self, count: int) -> None:
        """Send pings."""
        self.socket.sendall(_frame(PING, 0, 0, bytes(8)) * count)

    def frames(self) -> Iterator[Frame]:
        """What the server sends, until it closes the connection. Its settings and pings are acknowledged."""
        while (head := self._take(9)) is not None:
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = self._take(size)
            if payload is None:
                return
            if kind in (SETTINGS, PING) and not flags & _ACK:
                with contextlib.suppress(OSError):  # what the server had said before it closed is still read
                    self.socket.sendall(_frame(kind, _ACK, 0, payload if kind == PING else b""))
            yield Frame(kind, flags, int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)

    def status(self, stream: int) -> int:
        """The gRPC status with which a stream ends; it must be the first on its connection that does."""
        block = next(f.payload for f in self.frames() if f.stream == stream and f.kind == HEADERS and f.ends_stream)
        found = re.search(rb"grpc-status.(\d+)", block, re.DOTALL)
        assert found is not None
        return int(found.group(1))

    def most_streams(self) -> int:
        """How many streams the server lets be open at once, as its first settings say."""
        settings = next(frame for frame in self.frames() if frame.kind == SETTINGS).payload
        pairs = [settings[place : place + 6] for place in range(0, len(settings), 6)]
        found = {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
        return found[_MAX_CONCURRENT_STREAMS]

    def close(self) -> None:
        """Close the connection without a word."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def _take(self, size: int) -> bytes | None:
        while len(self._received) < size:
            try:
                more = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError):
                return None
            if not more:
                return None
            self._received += more
        taken, self._received = self._received[:size], self._received[size:]
        return taken


_GRPC = {"te": "trailers", "content-type": "application/grpc"}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """A literal header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


def _length(number: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if number < 0x7F:
        return bytes((number,))
    number -= 0x7F
    coded = bytearray((0x7F,))
    while number >= 0x80:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)

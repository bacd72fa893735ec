"""A TCP proxy on loopback that can hold back or cut what passes: the real API server, behind a network that fails."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.support.waiting import until

_CHUNK = 1 << 16


class HoldingProxy:
    """Forwards connections to one server. TLS goes through untouched.

    `hold_replies` keeps what comes back until `release`; `held` is set once there is any. `cut` closes every
    connection; after `refuse`, new ones too, until `accept`.

    Attributes:
        url: where it listens.
        held: something is kept back, or was since the last `hold_replies`.
        holding: on how many connections something is kept back now.
        connections: how many there are now.
        most_connections: how many there ever were at once.
    """

    def __init__(self, target: str, address: str = "127.0.0.1") -> None:
        """Forward to the host and port of a URL, from a loopback address."""
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server((address, 0))
        self.url = f"https://{address}:{self._listener.getsockname()[1]}"
        self.held = threading.Event()
        self.holding = self.connections = self.most_connections = 0
        self._counting = threading.Lock()
        self._gates = {"request": threading.Event(), "reply": threading.Event()}
        self._sockets: set[socket.socket] = set()
        self._refusing = False
        self.release()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        self.release()
        self.cut()
        until(lambda: not self._sockets, "the proxy's connections to end")

    def hold_replies(self) -> None:
        """Keep what comes from the server."""
        self.held.clear()
        self._gates["reply"].clear()

    def release(self) -> None:
        """Let everything through."""
        for gate in self._gates.values():
            gate.set()

    def refuse(self) -> None:
        """From now on there is no way to the server."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """From now on there is one again."""
        self._refusing = False

    def cut(self) -> None:
        """Close every connection."""
        for end in list(self._sockets):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            self._count_connection({near, far})
            replies = threading.Thread(target=self._copy, args=(far, near, "reply"), daemon=True)
            replies.start()
            self._copy(near, far, "request")
            replies.join()
            with self._counting:
                self._sockets -= {near, far}
                self.connections -= 1

    def _count_connection(self, ends: set[socket.socket]) -> None:
        with self._counting:
            self._sockets |= ends
            self.connections += 1
            self.most_connections = max(self.most_connections, self.connections)

    def _copy(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        gate = self._gates[direction]
        try:
            while data := source.recv(_CHUNK):
                if not gate.is_set():
                    self._hold(gate)
                sink.sendall(data)
        except OSError:
            pass  # the other end is gone, which the finally tells both
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _hold(self, gate: threading.Event) -> None:
        with self._counting:
            self.holding += 1
        self.held.set()
        gate.wait()
        with self._counting:
            self.holding -= 1

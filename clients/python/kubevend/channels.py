"""Connections, made anew when the certificate to show or those to trust change, and what every call goes with."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc

from kubevend import __version__
from kubevend.certificates import mismatch
from kubevend.connection import Settings
from kubevend.errors import ClientError, KubevendError
from kubevend.statuses import to_error
from kubevend.watched import WatchedFile

CALL_SECONDS = 10.0
"""How long a call with one answer may take, where nothing else is said."""

Metadata = tuple[tuple[str, str | bytes], ...]

_RETRIES = {
    "methodConfig": [
        # Who reads a stream opens it again in a way of its own, and is to know at once why it ended.
        {"name": [{"service": "kubevend.v1.IssueService", "method": "StreamTokens"}]},
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
    ]
}

OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(_RETRIES)),
    ("grpc.primary_user_agent", f"kubevend-python/{__version__}"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Else gRPC pings twice and then no longer, on a stream that waits for its next token.
    ("grpc.http2.max_pings_without_data", 0),
    # Else gRPC waits up to two minutes before it connects again, however soon a call asks.
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Else clients of one process that are alike would share a connection, and its credentials with it.
    ("grpc.use_local_subchannel_pool", 1),
]

"""What channels are made with. See https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h."""

PLAIN_OPTIONS = [*OPTIONS, ("grpc.enable_http_proxy", 0)]
"""Those without TLS besides so that what they send stays on this machine: gRPC asks http_proxy for loopback, too."""

Channel = TypeVar("Channel")
Method = TypeVar("Method")


@dataclass(eq=False)
class Line(Generic[Channel]):
    """A channel, the files' contents that it was made from, and how many calls run on it."""

    channel: Channel
    made_from: tuple[bytes | None, ...] = field(repr=False)  # a key among them
    calls: int = 0


class Lines(Generic[Channel]):
    """The channel to call on. When a file changes, the next call gets a new one; calls that run finish on the old one.

    grpcio offers Python no credentials that reload themselves.
    """

    def __init__(self, settings: Settings, make: Callable[[grpc.ChannelCredentials | None], Channel]) -> None:
        """Take how a channel is made, from credentials or, from none, in plain text."""
        self._settings = settings
        self._files = [_watched(settings, name) for name in ("ca_file", "client_key_file", "client_cert_file")]
        self._token_file = _watched(settings, "token_file")
        self._make = make
        self._lock = threading.Lock()
        self._line: Line[Channel] | None = None
        self._old: list[Line[Channel]] = []
        self._closed = False
        self._process = os.getpid()

    def metadata(self, given: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
        """What a call goes with: the caller's own metadata, and the credential as it is now.

        Raises:
            ClientError: there is none to be read (FILE_UNREADABLE).
        """
        own = tuple(given or ())
        if self._token_file is None:
            return own
        return (*own, ("authorization", f"Bearer {_text(self._token_file.read())}"))

    def take(self, on: Callable[[Channel], Method]) -> tuple[Line[Channel], Method]:
        """The line for a call, which it gives back when it has ended, and the method to call, on the line's channel.

        The method is made before anybody can close the channel: grpcio crashes where it is made afterwards.

        Raises:
            ClientError: a file cannot be read (FILE_UNREADABLE), the key is not the certificate's (KEY_MISMATCH), the
                client is closed (CLOSED), or was used in the process that this one was forked from (FORKED).
        """
        self._check_process()
        files = tuple(file.read() if file else None for file in self._files)
        with self._lock:
            self.check_open()
            line = self._line
            if line is None or line.made_from != files:
                line = self._line = self._renewed(line, files)
            method = on(line.channel)
            line.calls += 1
        return line, method

    def give_back(self, line: Line[Channel]) -> None:
        """Say that a call has ended."""
        with self._lock:
            line.calls -= 1

    def check_open(self, problem: Exception | None = None) -> None:
        """Refuse where the client is closed, which may be what was behind a problem.

        Raises:
            ClientError: it is (CLOSED).
        """
        if self._closed:
            raise ClientError("The client is closed. Make another.", reason="CLOSED") from problem

    def idle(self) -> list[Channel]:
        """Channels of old on which no call runs any longer. They are to be closed."""
        if not self._old:
            return []
        with self._lock:
            idle = [line for line in self._old if not line.calls]
            self._old = [line for line in self._old if line.calls]
        return [line.channel for line in idle]

    def end(self) -> list[Channel]:
        """Have no further calls. Returns the channels, which are to be closed with whatever runs on them."""
        with self._lock:
            lines = [*self._old, *([self._line] if self._line else [])]
            self._closed, self._line, self._old = True, None, []
        return [line.channel for line in lines] if os.getpid() == self._process else []

    def _renewed(self, old: Line[Channel] | None, files: tuple[bytes | None, ...]) -> Line[Channel]:
        fault = mismatch(self._settings)
        if fault and old:
            return old  # until the other file is replaced as well
        if fault:
            raise ClientError(fault, reason="KEY_MISMATCH")
        self._old += [old] if old else []
        self._process = os.getpid()
        ca, key, certificate = files
        credentials = None if self._settings.insecure else grpc.ssl_channel_credentials(ca, key, certificate)
        return Line(self._make(credentials), files)

    def _check_process(self) -> None:
        if self._line is not None and os.getpid() != self._process:
            raise ClientError(
                "This client was used before the process was forked, and gRPC's connections do not survive that. "
                "Make one in each process after the fork, or use none before it.",
                reason="FORKED",
            )


def error_of(failure: grpc.RpcError) -> KubevendError:
    """The error for a call that failed."""
    # Every such error is the call itself as well; the types do not say so.
    call: grpc.Call = failure  # type: ignore[assignment]
    return to_error(call.code().name, call.details() or "", call.trailing_metadata() or ())


def _watched(settings: Settings, name: str) -> WatchedFile | None:
    path = getattr(settings, name)
    return path and WatchedFile(path, settings.called(name))


def _text(content: bytes) -> str:
    """A token as a header can have it.

    Raises:
        ClientError: it has what no token has.
    """
    token = content.decode("ascii", errors="replace").strip()
    if not token.isprintable() or " " in token or "\ufffd" in token:
        raise ClientError(
            "token_file (KUBEVEND_TOKEN_FILE) holds no bearer token: that is one word of ASCII.",
            reason="FILE_UNREADABLE",
        )
    return token

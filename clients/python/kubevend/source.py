"""A token that is always good. `kubevend.aio` has the same for asyncio."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Self, cast

from kubevend.channels import CALL_SECONDS
from kubevend.client import Client, Stream
from kubevend.errors import ClientError, KubevendError
from kubevend.listeners import Listeners, Told
from kubevend.tokens import Token, issue_request
from kubevend.upkeep import Upkeep, now
from kubevend.v1 import issue_service_pb2 as pb


class TokenSource:
    """Keeps one token good for all threads of a process: renewed in the background, served through outages.

        with TokenSource("quickstart") as source:
            call_something_with(source.token().token)

    Nothing happens before the first `token`: so a source may be made before a process forks, and each process then has
    a stream of its own. Used first and forked later it refuses, since gRPC's connections do not survive that.

    Listeners are called one after another, from a thread of the source. What they raise is logged.
    """

    def __init__(
        self,
        role: str,
        *,
        client: Client | None = None,
        namespace: str = "",
        service_account_name: str = "",
        ttl: timedelta | None = None,
        min_ttl: timedelta | None = None,
        audiences: Sequence[str] = (),
        on_renewed: Callable[[Token], object] | None = None,
        on_revoked: Callable[[str, str], object] | None = None,
        on_refused: Callable[[KubevendError], object] | None = None,
        on_failed: Callable[[KubevendError], object] | None = None,
    ) -> None:
        """Take what the token is to be, as in `Client.issue`.

        Args:
            role: `quickstart` or `roles/quickstart`.
            client: whom to ask, which others may use too; left out, one of the source's own, from the environment.
            namespace: as in `Client.issue`.
            service_account_name: as in `Client.issue`.
            ttl: as in `Client.issue`.
            min_ttl: as in `Client.issue`.
            audiences: as in `Client.issue`.
            on_renewed: is called with each token.
            on_revoked: is called with the name of a lease that was ended before its time, and why. Another token is
                asked for by then.
            on_refused: is called with the error when no further token is allowed. The one that is held is served until
                its end, and kubevend is asked again now and then.
            on_failed: is called with the error each time that the next token could not be had, for whatever reason. It
                is tried again, and the token that is held is served meanwhile.

        Raises:
            ClientError: no client is given, and the environment does not say where kubevend is (SETTINGS_INVALID).
        """
        self._upkeep = Upkeep(
            issue_request(
                role,
                namespace=namespace,
                service_account_name=service_account_name,
                ttl=ttl,
                min_ttl=min_ttl,
                audiences=audiences,
            )
        )
        self._client = client or Client()
        self._owns_client = client is None
        self._listeners = Listeners(on_renewed, on_revoked, on_refused, on_failed)
        self._changed = threading.Condition()
        self._stream: Stream[pb.StreamTokensResponse] | None = None
        self._threads: list[threading.Thread] = []
        self._process = 0
        self._closed = False

    def token(self, timeout: float = CALL_SECONDS) -> Token:
        """The token, at once while one is held that is good.

        Args:
            timeout: how long to wait for one otherwise, in seconds.

        Raises:
            KubevendError: kubevend refuses it, or none came in time; then it is the last failure.
            ClientError: the source is closed (CLOSED), or was used before this process was forked (FORKED).
        """
        self._check_process()
        deadline = now() + timeout
        with self._changed:
            self._begin()
            while True:
                if self._closed:
                    raise ClientError("The token source is closed. Make another.", reason="CLOSED")
                if token := self._upkeep.current():
                    return token
                left = deadline - now()
                if self._upkeep.refusal or left <= 0:
                    raise self._upkeep.failure(timeout)
                self._changed.wait(left)

    def invalidate(self, token: Token | str) -> None:
        """Say that somebody was refused (401) with a token: if it is the current one, another takes its place."""
        text = token if isinstance(token, str) else token.token
        with self._changed:
            if self._upkeep.invalidate(text):
                self._changed.notify_all()

    def close(self) -> None:
        """End the stream and the threads, and the client where it is the source's own. Whoever waits gets CLOSED."""
        if self._process not in (0, os.getpid()):
            return  # its threads and connections are the parent's
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._end_stream()
            threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():  # a listener closes it
                thread.join()
        if self._owns_client:
            self._client.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        if self._process or self._closed:
            return
        self._process = os.getpid()
        atexit.register(self.close)  # a thread within gRPC while the interpreter goes down is a crash
        self._start(self._keep)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="kubevend-token-source", daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def _keep(self) -> None:
        while self._wait_for_turn():
            self._open()

    def _wait_for_turn(self) -> bool:
        """Wait until a stream is to be opened; false when that will not be any more."""
        with self._changed:
            while not self._closed and (pause := self._upkeep.pause):
                self._changed.wait(pause)
            return not self._closed

    def _open(self) -> None:
        with self._changed:
            self._end_stream()
            request = self._upkeep.open()
            silence = self._upkeep.failures()
        self._tell(silence)
        try:
            stream = self._client.issuing.StreamTokens(request)
        except KubevendError as error:  # of this side: a file that cannot be read
            self._take(None, partial(self._upkeep.ended, error))
            return
        with self._changed:
            self._stream = cast("Stream[pb.StreamTokensResponse]", stream)
            if self._closed:
                self._end_stream()
            else:
                self._start(partial(self._read, self._stream))

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def _read(self, stream: Stream[pb.StreamTokensResponse]) -> None:
        error: KubevendError | None = None
        try:
            for answer in stream:
                self._take(stream, partial(self._upkeep.heard, answer))
        except KubevendError as failed:
            error = failed
        self._take(stream, partial(self._upkeep.ended, error))

    def _take(self, stream: Stream[pb.StreamTokensResponse] | None, what: Callable[[], list[Told]]) -> None:
        """Take something that a stream brought, if it is still the one."""
        with self._changed:
            if stream is not self._stream:
                return
            told = [*what(), *self._upkeep.failures()]
            self._changed.notify_all()
        self._tell(told)

    def _tell(self, told: list[Told]) -> None:
        for event in told:
            self._listeners.tell(event)

    def _check_process(self) -> None:
        if self._process not in (0, os.getpid()):
            raise ClientError(
                "This token source was used before the process was forked. Make one in each process after the fork, or "
                "use it only there.",
                reason="FORKED",
            )

"""A token that is always good, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from kubevend.aio.client import Client
from kubevend.channels import CALL_SECONDS
from kubevend.errors import ClientError, KubevendError
from kubevend.listeners import Listeners, Told
from kubevend.tokens import Token, issue_request
from kubevend.upkeep import Upkeep
from kubevend.v1 import issue_service_pb2 as pb


class TokenSource:
    """Keeps one token good for all tasks of an event loop: renewed in the background, served through outages.

        async with TokenSource("quickstart") as source:
            await call_something_with((await source.token()).token)

    Nothing happens before the first `token`. Listeners are plain functions, called on the event loop, and what they
    raise is logged.
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
        """Take what the token is to be: as `kubevend.TokenSource`.

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
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    async def token(self, timeout: float = CALL_SECONDS) -> Token:  # noqa: ASYNC109 - it ends in the last failure's error
        """The token, at once while one is held that is good.

        Args:
            timeout: how long to wait for one otherwise, in seconds.

        Raises:
            KubevendError: kubevend refuses it, or none came in time; then it is the last failure.
            ClientError: the source is closed (CLOSED).
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            if self._closed:
                raise ClientError("The token source is closed. Make another.", reason="CLOSED")
            if token := self._upkeep.current():
                return token
            self._keeper = self._keeper or asyncio.create_task(self._keep())
            if self._keeper.done():
                self._keeper.result()  # a defect, which would otherwise look like an outage
            left = deadline - asyncio.get_running_loop().time()
            if self._upkeep.refusal or left <= 0:
                raise self._upkeep.failure(timeout)
            await self._wait(left)

    def invalidate(self, token: Token | str) -> None:
        """Say that somebody was refused (401) with a token: if it is the current one, another takes its place."""
        if self._upkeep.invalidate(token if isinstance(token, str) else token.token):
            self._announce()

    async def close(self) -> None:
        """End the stream and the tasks, and the client where it is the source's own. Whoever waits gets CLOSED."""
        self._closed = True
        self._announce()
        await _end(self._keeper)
        await _end(self._reader)
        if self._owns_client:
            await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _keep(self) -> None:
        while True:
            if pause := self._upkeep.pause:
                await self._wait(pause)
                continue
            await _end(self._reader)
            request = self._upkeep.open()
            self._take([])
            self._reader = asyncio.create_task(self._read(request))

    async def _read(self, request: pb.StreamTokensRequest) -> None:
        error: KubevendError | None = None
        try:
            stream = self._client.issuing.StreamTokens(request)
            async for answer in stream:
                self._take(self._upkeep.heard(answer))
        except KubevendError as failed:
            error = failed
        self._take(self._upkeep.ended(error))

    def _take(self, told: list[Told]) -> None:
        self._announce()
        for event in [*told, *self._upkeep.failures()]:
            self._listeners.tell(event)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until something has changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])

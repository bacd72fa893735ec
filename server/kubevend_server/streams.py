"""Open streams: calls with many answers.

A stream is a row of steps. Each is a call like any other and passes all interceptors: who its caller is, whether its
limits and the policies still allow it, is asked each time, and each step leaves its own audit event. Between steps a
stream is a timer and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from google.protobuf.message import Message

from kubevend_server.calls import Call, Handler, Interceptor, Record
from kubevend_server.errors import OverLimit, Unavailable

_SOON = timedelta(seconds=1)


class Stream:
    """One open stream. To be used by its own method alone, on the event loop's thread.

    Attributes:
        first: the call that opened it: its first step.
        may_go_on: tells, of a call that was never made, whether another one like it would be allowed; None where nobody
            can tell before it is made.
        is_to_ask: it looks as if it would not be, so it is to ask whether it may go on.
    """

    def __init__(self, first: Call, pass_through: Interceptor, streams: Streams) -> None:
        self.first = first
        self._begun = False
        self._pass_through = pass_through
        self._streams = streams
        self._bell: asyncio.Future[None] | None = None
        self._rung = False
        self.may_go_on: Callable[[Call], Awaitable[bool]] | None = None
        self.is_to_ask = False

    async def step(self, handler: Handler) -> Message:
        """Have something done as a call of the stream's caller.

        Raises:
            KubevendError: it was refused, or failed.
        """
        if self._begun:
            return await self._pass_through(self._following(), lambda call: self._go_on(call, handler))
        self._begun = True
        reply = await self._pass_through(self.first, lambda call: self._begin(call, handler))
        # It holds what was issued, down to the rows of the store, and the stream may be open for weeks. So may what the
        # request has beyond its fields, which its caller chooses the size of.
        self.first.record = Record()
        if (request := self.first.request) is not None:
            request.DiscardUnknownFields()
            self.first.payload = request.SerializeToString()
        return reply

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until somebody rings, be it that they did since the last wait.

        Raises:
            Unavailable: the server is stopping.
        """
        self._streams.check_open()
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._bell = loop.create_future()
            timer = loop.call_later(seconds, self.ring)
            try:
                await self._bell
            finally:
                timer.cancel()
                self._bell = None
        self._rung = False
        self._streams.check_open()

    def ring(self) -> None:
        """End its wait, or the next one if it does not wait just now."""
        self._rung = True
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def ask(self) -> None:
        """Have it ask whether it may go on."""
        self.is_to_ask = True
        self.ring()

    async def looks_allowed(self) -> bool:
        """Whether another step looks allowed. Told without a call: no limit counts, nor is asked who the caller is."""
        if self.may_go_on is None:
            return True
        imagined = self._following()
        imagined.caller, imagined.request = self.first.caller, self.first.request
        return await self.may_go_on(imagined)

    async def _begin(self, call: Call, handler: Handler) -> Message:
        self._streams.admit(self, call.who.name)
        return await handler(call)

    async def _go_on(self, call: Call, handler: Handler) -> Message:
        # Its credential may name the same caller with other groups or claims by now.
        self.first.caller = call.caller
        return await handler(call)

    def _following(self) -> Call:
        first = self.first

        async def received() -> bytes | None:
            return first.payload

        return Call(first.method, received, first.shown, first.peer, time.monotonic(), stream=first.request_id)


Opener = Callable[[Stream], AsyncGenerator[Message, None]]
"""What answers on a stream."""


class Streams:
    """All open streams of the server. To be used on the event loop's thread only."""

    def __init__(self, most_per_caller: int) -> None:
        """Take how many one caller may have open."""
        self._most_per_caller = most_per_caller
        self._open: dict[Stream, str] = {}
        self._of: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, first: Call, pass_through: Interceptor) -> Iterator[Stream]:
        """A stream, for as long as its method runs."""
        stream = Stream(first, pass_through, self)
        try:
            yield stream
        finally:
            caller = self._open.pop(stream, None)
            if caller is not None:
                self._of[caller] -= 1
                if not self._of[caller]:
                    del self._of[caller]

    def admit(self, stream: Stream, caller: str) -> None:
        """Let a stream in whose caller is known now.

        Raises:
            OverLimit: the caller has too many.
            Unavailable: the server is stopping.
        """
        self.check_open()
        if self._of[caller] >= self._most_per_caller:
            raise OverLimit(
                "TOO_MANY_STREAMS",
                f"{caller} has {self._most_per_caller} streams open, which is as many as may be at once "
                "(limits.streams_per_caller). Close those that are not needed: one for each role is enough for a "
                "process.",
                subject=caller,
                metadata={"setting": "limits.streams_per_caller", "most": str(self._most_per_caller)},
                retry_after=_SOON,
            )
        self._open[stream] = caller
        self._of[caller] += 1

    def all(self) -> list[Stream]:
        """Those that are open now."""
        return list(self._open)

    def close(self) -> None:
        """End them all, as the server stops: whoever waits for its next answer gets UNAVAILABLE, and comes again."""
        self._closed = True
        for stream in list(self._open):
            stream.ring()

    def check_open(self) -> None:
        """Refuse to go on where the server is stopping.

        Raises:
            Unavailable: it is.
        """
        if self._closed:
            raise Unavailable(
                "SERVER_STOPPING",
                "This server is stopping. Open the stream again: another one takes it over.",
                retry_after=timedelta(0),
            )

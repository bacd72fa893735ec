"""Streams of tokens: whoever holds one open has a token that is good, and is told when that ends before its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import issue_service_pb2 as pb
from kubevend_server.calls import Handler
from kubevend_server.clock import Clock
from kubevend_server.errors import (
    Aborted,
    DeadlineExceeded,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)
from kubevend_server.services import convert
from kubevend_server.streams import Stream

_TEMPORARY = (Unavailable, ResourceExhausted, Aborted, OutcomeUnknown, DeadlineExceeded)
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


class TokenStreams:
    """Keeps callers supplied with tokens."""

    def __init__(self, issue: Handler, renew_after: float, clock: Clock, spread: Callable[[], float]) -> None:
        """Take how tokens are issued.

        Args:
            issue: issues one, as an `IssueTokenResponse`.
            renew_after: after which part of its life a token is followed by the next one.
            clock: the time of day.
            spread: a random factor around 1, so that tokens which were issued together are not renewed together.
        """
        self._issue = issue
        self._renew_after = renew_after
        self._clock = clock
        self._spread = spread

    async def run(self, stream: Stream) -> AsyncIterator[Message]:
        """Answer with one token after another.

        Raises:
            KubevendError: see the comment of IssueService.StreamTokens.
        """
        reply = await self._step(stream)
        while True:
            due = self._due(reply)
            response = pb.StreamTokensResponse(token=reply)
            convert.set_timestamp(response.next_token_time, due)
            yield response
            await self._wait_until(stream, due)
            try:
                reply = await self._next(stream, convert.moment(reply, "expiration") or due)
            except KubevendError as refusal:
                if not isinstance(refusal, Unavailable):
                    yield _notice(refusal, reply)
                raise

    async def _step(self, stream: Stream) -> pb.IssueTokenResponse:
        return cast("pb.IssueTokenResponse", await stream.step(self._issue))

    def _due(self, reply: pb.IssueTokenResponse) -> datetime:
        life = reply.granted_ttl.ToTimedelta() * self._renew_after * self._spread()
        return self._clock() + life

    async def _wait_until(self, stream: Stream, due: datetime) -> None:
        while (left := (due - self._clock()).total_seconds()) > 0:
            await stream.wait(left)

    async def _next(self, stream: Stream, end: datetime) -> pb.IssueTokenResponse:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._step(stream)
            except _TEMPORARY as problem:
                least = problem.retry_after.total_seconds() if problem.retry_after else 0.0
                seconds = max(pause, least) * self._spread()
                if (end - self._clock()).total_seconds() < seconds:
                    raise
            await stream.wait(seconds)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _notice(refusal: KubevendError, last: pb.IssueTokenResponse) -> pb.StreamTokensResponse:
    notice = pb.StreamNotice(reason=refusal.reason, message=refusal.message, lease=last.lease)
    notice.works_until.CopyFrom(last.token_expiration)
    return pb.StreamTokensResponse(notice=notice)

"""Streams of tokens: whoever holds one open has a token that is good, and is told when that ends before its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
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
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.revocation import CACHE
from kubevend_server.services import convert
from kubevend_server.store.lease_ends import Change
from kubevend_server.streams import Stream

_TEMPORARY = (Unavailable, ResourceExhausted, Aborted, OutcomeUnknown, DeadlineExceeded)
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """What a stream has done as a call: `issue` a token, or `ask` whether one would be issued."""

    issue: Handler
    ask: Handler


class TokenStreams:
    """Keeps callers supplied with tokens."""

    def __init__(
        self, issuer: Issuer, feed: LeaseFeed, renew_after: float, clock: Clock, spread: Callable[[], float]
    ) -> None:
        """Take how tokens are issued.

        Args:
            issuer: issues them.
            feed: tells when a lease is ended before its time.
            renew_after: after which part of its life a token is followed by the next one.
            clock: the time of day.
            spread: a random factor around 1, so that tokens which were issued together are not renewed together.
        """
        self._issuer = issuer
        self._feed = feed
        self._renew_after = renew_after
        self._clock = clock
        self._spread = spread

    async def run(self, stream: Stream) -> AsyncIterator[Message]:
        """Answer with one token after another.

        Raises:
            KubevendError: see the comment of IssueService.StreamTokens.
        """
        token = await self._issue(stream)
        while True:
            response = pb.StreamTokensResponse(token=token)
            due = self._clock() + token.granted_ttl.ToTimedelta() * self._renew_after * self._spread()
            convert.set_timestamp(response.next_token_time, due)
            yield response
            try:
                await self._watch(stream, token, due)
                token = await self._next(stream, convert.moment(token, "expiration") or due)
            except _RevokedError as revoked:
                yield revoked.notice
                raise revoked.error from None
            except Unavailable:
                raise
            except KubevendError as refusal:
                yield _notice(refusal, token)
                raise

    async def _issue(self, stream: Stream) -> pb.IssueTokenResponse:
        return cast("pb.IssueTokenResponse", await stream.step(self._issuer.issue))

    async def _watch(self, stream: Stream, token: pb.IssueTokenResponse, due: datetime) -> None:
        """Wait until the next token is due.

        Raises:
            _RevokedError: the token's lease was ended meanwhile.
            KubevendError: no further token is allowed.
        """
        with self._feed.following(token.lease, stream.ring) as followed:
            while (left := (due - self._clock()).total_seconds()) > 0:
                await stream.wait(left)
                if followed.change is not None:
                    raise _RevokedError(token, followed.change)
                if stream.is_to_ask:
                    stream.is_to_ask = False
                    await self._ask(stream)

    async def _ask(self, stream: Stream) -> None:
        try:
            await stream.step(self._issuer.ask)
        except _TEMPORARY:
            return  # it says nothing of what is allowed, and the next token will show

    async def _next(self, stream: Stream, end: datetime) -> pb.IssueTokenResponse:
        """The next token, tried again while the one before lives."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._issue(stream)
            except _TEMPORARY as problem:
                least = problem.retry_after or timedelta()
                seconds = max(pause, least.total_seconds()) * self._spread()
                if (end - self._clock()).total_seconds() < seconds:
                    raise
            await stream.wait(seconds)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class _RevokedError(Exception):
    """The lease of a stream's token was ended before its time."""

    def __init__(self, token: pb.IssueTokenResponse, change: Change) -> None:
        cause = change.cause or "nobody has written down why"
        self.error = Aborted(
            "LEASE_REVOKED",
            f"{change.name}, the lease of this stream's token, was ended before its time: {cause}. Open another stream "
            "only if that was not meant for you.",
            metadata={"lease": change.name, "cause": cause},
        )
        self.notice = _notice(self.error, token)
        self.notice.notice.ClearField("works_until")
        if change.revocation == "NONE":
            self.notice.notice.works_until.CopyFrom(token.token_expiration)
        elif change.end_time is not None:
            convert.set_timestamp(self.notice.notice.works_until, change.end_time + CACHE)


def _notice(refusal: KubevendError, last: pb.IssueTokenResponse) -> pb.StreamTokensResponse:
    notice = pb.StreamNotice(reason=refusal.reason, message=refusal.message, lease=last.lease)
    notice.works_until.CopyFrom(last.token_expiration)
    return pb.StreamTokensResponse(notice=notice)

"""Streams of tokens: whoever holds one open has a token that is good, and is told when that ends before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import issue_service_pb2 as pb
from kubevend_server.calls import Call, Handler
from kubevend_server.clock import Clock
from kubevend_server.errors import (
    Aborted,
    DeadlineExceeded,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)
from kubevend_server.lease_feed import Followed, LeaseFeed
from kubevend_server.revocation import CACHE
from kubevend_server.services import convert
from kubevend_server.store.lease_ends import Change
from kubevend_server.streams import Stream

TEMPORARY = (Unavailable, ResourceExhausted, Aborted, OutcomeUnknown, DeadlineExceeded)
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_ASK_AGAIN_SECONDS = 5.0
_SETTLES = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Issuer:
    """What a stream needs to have tokens issued.

    Attributes:
        issue: issues one, as a call.
        ask: refuses where none would be issued, as a call.
        may_issue: whether one looks allowed, without a call.
    """

    issue: Handler
    ask: Handler
    may_issue: Callable[[Call], Awaitable[bool]]


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

    async def run(self, stream: Stream) -> AsyncGenerator[Message, None]:
        """Answer with one token after another.

        Raises:
            KubevendError: see the comment of IssueService.StreamTokens.
        """
        token = await self._issue(stream)
        stream.may_go_on = self._issuer.may_issue
        while True:
            # From before it leaves until the next one is there: whenever its lease is ended, that is told.
            with self._feed.following(token.lease, stream.ring) as followed:
                due = self._due(token)
                response = pb.StreamTokensResponse(token=token)
                convert.set_timestamp(response.next_token_time, due)
                yield response
                try:
                    await self._wait(stream, token, followed, due)
                    token = await self._next(stream, token, followed)
                except _RevokedError as revoked:
                    yield revoked.notice
                    raise revoked.error from None
                except TEMPORARY:
                    raise
                except KubevendError as refusal:
                    yield _notice(refusal, token)
                    raise

    async def _issue(self, stream: Stream) -> pb.IssueTokenResponse:
        return cast("pb.IssueTokenResponse", await stream.step(self._issuer.issue))

    def _due(self, token: pb.IssueTokenResponse) -> datetime:
        now, life = self._clock(), token.granted_ttl.ToTimedelta()
        # Another token of a lease that lived already ends with that.
        left = min(life, (convert.moment(token, "expiration") or now) - now)
        return now + max(left, timedelta()) * self._renew_after * self._spread()

    async def _wait(self, stream: Stream, token: pb.IssueTokenResponse, followed: Followed, until: datetime) -> None:
        """Wait.

        Raises:
            _RevokedError: the token's lease was ended meanwhile.
            KubevendError: no further token is allowed.
        """
        while (left := (until - self._clock()).total_seconds()) > 0:
            await stream.wait(left)
            await self._check_lives(stream, token, followed)
            if stream.is_to_ask:
                await self._ask(stream)

    async def _check_lives(self, stream: Stream, token: pb.IssueTokenResponse, followed: Followed) -> None:
        if followed.change is None:
            return
        # What it stands on is deleted in a moment, most often, and only then it is known until when the token works.
        settled = self._clock() + _SETTLES
        while followed.change.state == "REVOKING" and (left := (settled - self._clock()).total_seconds()) > 0:
            await stream.wait(left)
        raise _RevokedError(token, followed.change)

    async def _ask(self, stream: Stream) -> None:
        stream.is_to_ask = False
        try:
            await stream.step(self._issuer.ask)
        except TEMPORARY:
            # It says nothing of what is allowed.
            asyncio.get_running_loop().call_later(_ASK_AGAIN_SECONDS, stream.ask)

    async def _next(self, stream: Stream, token: pb.IssueTokenResponse, followed: Followed) -> pb.IssueTokenResponse:
        """The next token, tried again while the one before lives.

        Raises:
            _RevokedError: the lease of the one before was ended meanwhile.
            KubevendError: it is refused, or cannot be had in time.
        """
        end = convert.moment(token, "expiration") or self._clock()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._issue(stream)
            except TEMPORARY as problem:
                least = problem.retry_after or timedelta()
                until = self._clock() + timedelta(seconds=max(pause, least.total_seconds()) * self._spread())
                if until > end:
                    raise
            await self._wait(stream, token, followed, until)
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

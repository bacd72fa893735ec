"""Streams of tokens, by a clock that goes on only where a stream waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from google.protobuf.message import Message

from kubevend.v1 import issue_service_pb2 as pb
from kubevend_server.calls import Call, Handler
from kubevend_server.errors import Aborted, KubevendError, PermissionDenied, Unavailable
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.services import convert
from kubevend_server.store import lease_ends
from kubevend_server.store.database import Database
from kubevend_server.streams import Stream, Streams
from kubevend_server.token_streams import Issuer, TokenStreams
from tests.unit.builders import NOW, call, lease
from tests.unit.test_lease_lists import add

HOUR = timedelta(hours=1)
AWAY = Unavailable("KUBERNETES_UNREACHABLE", "away")
NO = PermissionDenied("ACCESS_DENIED", "no")


class PlayedStream(Stream):
    """A stream whose time passes where it waits.

    Attributes:
        now: its time.
        waits: for how long it has waited each time, in seconds.
        meanwhile: called once, at the end of its next wait.
    """

    def __init__(self) -> None:
        super().__init__(call(), lambda call, handler: handler(call), Streams(1))
        self.now = NOW
        self.waits: list[float] = []
        self.meanwhile: Callable[[], None] | None = None

    def clock(self) -> datetime:
        """Its time."""
        return self.now

    async def step(self, handler: Handler) -> Message:
        """Have it done."""
        return await handler(self.first)

    async def wait(self, seconds: float) -> None:
        """Let the time pass."""
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()


class Played:
    """A stream of tokens: each item of `script` is what an issuance comes to, a token's life or an error."""

    def __init__(self, database: Database, *script: timedelta | KubevendError, spread: float = 1.0) -> None:
        self.stream = PlayedStream()
        self.feed = LeaseFeed(database, self.stream.clock)
        self.script = list(script)
        self.issued: list[datetime] = []
        self.asked = 0
        self.refuses: KubevendError | None = None
        self.life: timedelta | None = None
        issuer = Issuer(self._issue, self._ask, self._may_issue)
        self.answers = TokenStreams(issuer, self.feed, 2 / 3, self.stream.clock, lambda: spread).run(self.stream)

    async def _issue(self, _: Call) -> Message:
        outcome = self.script.pop(0)
        self.issued.append(self.stream.now)
        if isinstance(outcome, KubevendError):
            raise outcome
        reply = pb.IssueTokenResponse(lease=lease(1).name)
        convert.set_duration(reply.granted_ttl, outcome)
        convert.set_timestamp(reply.expiration, self.stream.now + (self.life or outcome))
        convert.set_timestamp(reply.token_expiration, self.stream.now + outcome)
        return reply

    async def _ask(self, _: Call) -> Message:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        return pb.StreamTokensResponse()

    async def _may_issue(self, _: Call) -> bool:
        return self.refuses is None

    async def next(self) -> pb.StreamTokensResponse:
        """Its next answer."""
        answer = await anext(self.answers)
        assert isinstance(answer, pb.StreamTokensResponse)
        return answer


@pytest.mark.parametrize(("spread", "seconds"), [(1.0, 2400), (0.95, 2280), (1.05, 2520)])
async def test_the_next_token_comes_when_two_thirds_of_its_life_are_over(
    database: Database, spread: float, seconds: int
) -> None:
    """The answer says when the next one is due, that is when it comes, and streams are spread around it."""
    played = Played(database, HOUR, HOUR, spread=spread)

    first = await played.next()
    await played.next()

    due = NOW + timedelta(seconds=seconds)
    assert first.next_token_time.ToDatetime(tzinfo=NOW.tzinfo) == due
    assert played.issued == [NOW, due]


async def test_a_token_that_was_cut_is_followed_sooner(database: Database) -> None:
    """It is the life that was granted which counts, and what is left of a lease that has lived for a while."""
    played = Played(database, timedelta(minutes=10), HOUR, HOUR)
    await played.next()
    await played.next()
    assert played.issued[1] - played.issued[0] == timedelta(seconds=400)

    played = Played(database, HOUR, HOUR)
    played.life = timedelta(minutes=15)
    await played.next()
    await played.next()
    assert played.issued[1] - played.issued[0] == timedelta(minutes=10)


async def test_what_fails_for_a_while_is_tried_again_ever_more_slowly(database: Database) -> None:
    """Pauses double from a second to half a minute, or are as long as the error says; the token after it comes."""
    patient = Unavailable("KUBERNETES_UNAVAILABLE", "away", retry_after=timedelta(seconds=45))
    played = Played(database, HOUR, *[AWAY] * 7, patient, HOUR)
    await played.next()

    assert (await played.next()).HasField("token")

    pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(played.issued)]
    assert pauses == [2400, 1, 2, 4, 8, 16, 30, 30, 45]


async def test_it_is_given_up_when_the_last_token_ends(database: Database) -> None:
    """It is tried for as long as the last token lives; then the stream ends with the error, which says enough."""
    played = Played(database, HOUR, *[AWAY] * 100)
    await played.next()

    with pytest.raises(Unavailable, match="away"):
        await played.next()

    assert NOW + HOUR - timedelta(seconds=30) < played.issued[-1] <= NOW + HOUR


async def test_what_is_refused_is_not_tried_again(database: Database) -> None:
    """A denial of the next token is told by a notice, and ends the stream."""
    played = Played(database, HOUR, NO)
    token = (await played.next()).token

    notice = (await played.next()).notice
    with pytest.raises(PermissionDenied):
        await played.next()

    assert (notice.reason, notice.works_until, len(played.issued)) == ("ACCESS_DENIED", token.token_expiration, 2)


async def test_an_end_is_told_while_the_next_token_cannot_be_had(database: Database) -> None:
    """A lease that is revoked during an outage of its cluster ends the stream all the same."""
    add(database, lease(1))
    played = Played(database, HOUR, *[AWAY] * 3)
    await played.next()
    outage = played.script

    async def look(seconds: float) -> None:
        await PlayedStream.wait(played.stream, seconds)
        if not outage[1:]:
            revoke(database, played.stream.now)
            await played.feed.look()

    played.stream.wait = look  # type: ignore[method-assign]

    notice = (await played.next()).notice
    with pytest.raises(Aborted) as ended:
        await played.next()

    assert (notice.reason, notice.lease, notice.HasField("works_until")) == ("LEASE_REVOKED", lease(1).name, True)
    assert ended.value.metadata == {"lease": lease(1).name, "cause": "revoked by somebody"}
    assert len(outage) == 1


async def test_an_end_is_told_that_came_before_the_stream_followed(database: Database) -> None:
    """A lease that others were told of already, before the stream came to follow it, ends the stream."""
    add(database, lease(1))
    played = Played(database, HOUR)
    with played.feed.following("leases/another", lambda: None):
        revoke(database, NOW)
        await played.feed.look()
        await played.next()
        await played.feed.look()

        notice = (await played.next()).notice

    assert (notice.reason, played.issued) == ("LEASE_REVOKED", [NOW])


async def test_until_when_the_token_works_is_waited_for(database: Database) -> None:
    """The notice waits a second, and no longer, for what the token stands on to be gone."""
    add(database, lease(1, revocation="PER_LEASE"))
    with database.writer.begin() as connection:
        lease_ends.begin_end(connection, [lease(1).name], "REVOKED", "revoked by somebody", NOW)
    played = Played(database, HOUR)
    await played.next()
    await played.feed.look()

    notice = (await played.next()).notice

    # The first wait would have been for the next token.
    assert played.stream.waits == [2400, 1]
    assert (notice.reason, notice.HasField("works_until")) == ("LEASE_REVOKED", False)


async def test_a_stream_asks_when_it_is_told_to(database: Database) -> None:
    """A stream that looks denied asks, and goes on or ends by what it is answered; what says nothing is asked again."""
    played = Played(database, HOUR, HOUR)
    await played.next()
    assert await played.stream.looks_allowed()
    played.stream.meanwhile = played.stream.ask
    await played.next()
    assert (played.asked, len(played.issued)) == (1, 2)

    played.refuses = NO
    assert not await played.stream.looks_allowed()
    played.stream.meanwhile = played.stream.ask
    notice = (await played.next()).notice
    assert (notice.reason, played.asked, len(played.issued)) == ("ACCESS_DENIED", 2, 2)


async def test_a_bell_is_heard_by_who_does_not_wait_yet() -> None:
    """Whoever is rung for while it does something else does not sleep after that."""
    stream = Stream(call(), lambda call, handler: handler(call), Streams(1))

    stream.ring()
    await asyncio.wait_for(stream.wait(3600), 30)

    # Once.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.wait(3600), 0.01)


def revoke(database: Database, now: datetime) -> None:
    """End the lease of the tokens, for which nothing stands in a cluster."""
    with database.writer.begin() as connection:
        lease_ends.end_without_objects(connection, [lease(1).name], "REVOKED", "revoked by somebody", now)

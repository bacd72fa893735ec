"""Open streams: what their callers leave behind when they go, and what they cost the limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from grpc import aio

from kubevend.v1 import config_service_pb2, issue_service_pb2, role_service_pb2
from kubevend_server.asking_again import AskingAgain
from kubevend_server.behaviors import stream_behavior
from kubevend_server.calls import Method
from kubevend_server.cluster.connection import Answer
from kubevend_server.settings import LimitSettings
from kubevend_server.streams import Opener
from tests.unit.builders import ADMIN_TOKEN
from tests.unit.world import HOST, FakeConnection, FakeContext, Refused, World, sending, token_reply

STREAM = Method(
    "kubevend.v1.IssueService", "StreamTokens", issue_service_pb2.StreamTokensRequest, reads=False, streams=True
)
REQUEST = issue_service_pb2.StreamTokensRequest(issue=issue_service_pb2.IssueTokenRequest(role="roles/ci"))


class HeldConnection(FakeConnection):
    """A cluster that answers once it is let."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        super().__init__(token_reply())
        self.let, self.was_asked = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def call(self, *args: Any, **kwargs: Any) -> Answer:
        """Answer once it is let."""
        self.was_asked.set()
        await self.let.wait()
        return await super().call(*args, **kwargs)


class BusyContext(FakeContext):
    """A caller that does not read."""

    async def write(self, payload: bytes) -> None:
        """Never end."""
        await super().write(payload)
        await asyncio.Event().wait()


class Opened:
    """A stream that was opened in a world."""

    def __init__(
        self, world: World, context: FakeContext | None = None, opener: Opener | None = None, unknown: bytes = b""
    ) -> None:
        """Open it, with fields in the request that there are not."""
        self.context = context or FakeContext({"authorization": f"Bearer {ADMIN_TOKEN}"}, "ipv4:10.0.0.7:51234")
        service = next(each for each in world.services if "StreamTokens" in each.openers())
        behave = stream_behavior(STREAM, opener or service.openers()["StreamTokens"], world.interceptors, world.streams)
        shown = cast("aio.ServicerContext[bytes, bytes]", self.context)
        self.task = asyncio.ensure_future(behave(sending(REQUEST.SerializeToString() + unknown), shown))

    async def next(self) -> issue_service_pb2.StreamTokensResponse:
        """Its next answer.

        Raises:
            Refused: it has ended.
        """
        answer = asyncio.create_task(self.context.written.get())
        await asyncio.wait([self.task, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await self.task
        return issue_service_pb2.StreamTokensResponse.FromString(await answer)

    async def leave(self) -> None:
        """Let its caller leave."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def held(tmp_path: Path) -> Any:
    """A world with a role, whose cluster answers once it is let."""
    world = World(tmp_path, connection=HeldConnection(), limited=LimitSettings(in_flight_per_source=1))
    config = config_service_pb2.Config(kubernetes_host=HOST, service_account_jwt="x")
    await world.call(config_service_pb2.CreateConfigRequest(config_id="default", config=config))
    role = role_service_pb2.Role(
        allowed_namespaces=["apps"], allowed_service_accounts=["deployer"], allowed_audiences=["https://api"]
    )
    role.ttl.seconds = 3600
    await world.call(role_service_pb2.CreateRoleRequest(role_id="ci", role=role))
    yield world
    await world.recorder.drain()
    world.close()


def outcomes(world: World) -> list[str]:
    """How the calls of streams have ended, as the audit log has it."""
    return [
        line["outcome"]
        for line in world.lines()
        if line["method"].endswith("StreamTokens") and line["stage"] == "STAGE_COMPLETE"
    ]


async def test_a_caller_that_leaves_an_idle_stream_leaves_nothing(held: World) -> None:
    """The stream is gone, nobody follows its lease, and there is no event but that of its token."""
    stream = Opened(held)
    await stream.next()

    await stream.leave()

    assert (len(held.streams), held.feed.is_followed, outcomes(held)) == (0, False, ["OUTCOME_SUCCEEDED"])


async def test_what_a_request_has_beyond_its_fields_is_not_kept(held: World) -> None:
    """A stream may be open for weeks, and its caller chooses how large a request is."""
    unknown = b"\xfa\x7f\xa0\x8d\x06" + bytes(100_000)  # field 2047, of 100,000 bytes
    stream = Opened(held, unknown=unknown)
    await stream.next()
    (kept,) = held.streams.all()

    assert kept.first.payload == REQUEST.SerializeToString()
    assert kept.first.request == REQUEST
    await stream.leave()


async def test_a_caller_that_leaves_before_it_has_read_leaves_nothing(held: World) -> None:
    """A stream that waits for its caller to read ends when that leaves, at once."""
    stream = Opened(held, BusyContext({"authorization": f"Bearer {ADMIN_TOKEN}"}, "ipv4:10.0.0.7:51234"))
    await stream.next()

    await stream.leave()

    assert (len(held.streams), held.feed.is_followed) == (0, False)


async def test_a_caller_that_leaves_during_a_step_is_as_with_any_call(held: World) -> None:
    """The token that was about to be minted is dropped, and its event says so; the stream is gone at once."""
    connection = cast("HeldConnection", held.connection)
    connection.let.clear()
    stream = Opened(held)
    await connection.was_asked.wait()

    await stream.leave()
    assert (len(held.streams), held.feed.is_followed) == (0, False)
    connection.let.set()
    await held.recorder.drain()

    assert outcomes(held) == ["OUTCOME_ABANDONED"]


async def test_a_stream_counts_as_under_way_during_its_steps_alone(held: World) -> None:
    """A source that may have one call under way can have streams open, and calls beside them."""
    first, second = Opened(held), None
    await first.next()
    second = Opened(held)
    await second.next()

    reply = await held.call(issue_service_pb2.IssueTokenRequest(role="roles/ci"))

    assert reply.token
    assert len(held.streams) == 2
    await first.leave()
    await second.leave()


async def test_a_defect_ends_a_stream_and_is_not_told(held: World) -> None:
    """A caller learns of a defect only that there is one; the stream is gone."""

    async def broken(stream: Any) -> Any:
        async def nothing(call: Any) -> Any:
            del call
            return issue_service_pb2.StreamTokensResponse()

        yield await stream.step(nothing)
        raise KeyError("a secret of the server's")

    stream = Opened(held, opener=broken)
    await stream.next()

    with pytest.raises(Refused) as refused:
        await stream.task

    assert "DEFECT" in str(refused.value.status)
    assert "secret" not in str(refused.value.status)
    assert len(held.streams) == 0


async def test_a_change_that_takes_nothing_away_makes_no_call(held: World) -> None:
    """After a change of the roles a stream that may go on does, without an event, and asks nobody who its caller is."""
    stream = Opened(held)
    await stream.next()
    asking, before = AskingAgain(held.streams, held.catalog, held.policies), len(held.lines())

    (opened,) = held.streams.all()
    held.catalog.version += 1
    await asking.look()

    assert (opened.is_to_ask, len(held.lines())) == (False, before)
    await stream.leave()


async def test_a_stream_whose_role_is_gone_asks_and_ends(held: World) -> None:
    """After a change that takes its role away a stream asks by a call, whose event has the denial, and ends."""
    stream = Opened(held)
    await stream.next()
    asking = AskingAgain(held.streams, held.catalog, held.policies)

    await held.call(role_service_pb2.DeleteRoleRequest(name="roles/ci"))
    await asking.look()
    notice = (await stream.next()).notice

    with pytest.raises(Refused):
        await stream.task
    assert notice.reason == "ROLE_NOT_FOUND"
    assert len(held.streams) == 0

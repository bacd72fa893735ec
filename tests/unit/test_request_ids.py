"""Calls that are made again under their request id."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from hypothesis.stateful import rule as step
from multidict import CIMultiDict

from kubevend.v1 import issue_service_pb2 as pb
from kubevend.v1 import lease_service_pb2
from kubevend_server import ending
from kubevend_server.behaviors import behavior
from kubevend_server.callers import BOOTSTRAP_ADMIN
from kubevend_server.calls import Call, Method
from kubevend_server.cluster.connection import Answer
from kubevend_server.cluster.failures import Attempt, anchor_gone
from kubevend_server.leases import Lease, LeaseToken
from kubevend_server.policy.access import AccessPolicy
from kubevend_server.policy.policies import Policies
from kubevend_server.replaying import time_left
from kubevend_server.services.issue import IssueService, once_of
from kubevend_server.store import lease_ends, replicas
from kubevend_server.store import leases as lease_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.requests import Claim
from kubevend_server.store.schema import metadata
from tests.support.plans import plans
from tests.unit.builders import ADMIN_TOKEN, NOW, PERMIT_ALL, config, lease, minted, role
from tests.unit.endings import ME, Endings
from tests.unit.world import FakeConnection, Refused, World, context, sending, token_reply

ID, OTHER_ID = "6f1c9a52-8b4e-4d0a-9c3e-2f7d5b1a0e48", "0d9f3b1e-2c4a-4a57-8a3c-9b0e5d7f6a21"
MINUTE = timedelta(minutes=1)


class MintingConnection(FakeConnection):
    """A cluster that mints tokens as they are asked for, by a clock that the test moves; each has a jti of its own.

    Attributes:
        now: the time.
        gate: what minting waits for.
        waiting: how many tokens were about to be minted since `hold`.
        anchors_are_gone: somebody has deleted all anchors.
        spoiled: so many tokens come with another audience than was asked for.
        minted: when each token expires, by its jti.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.now = NOW
        self.minted: dict[str, datetime] = {}
        self.numbers = itertools.count(1)
        self.gate: asyncio.Event | None = None
        self.spoiled = 0
        self.waiting = 0
        self.anchors_are_gone = False

    async def call(self, request: Any, attempt: Attempt, judged: Any = ()) -> Answer:
        """Answer."""
        del judged
        self.asked.append((request.path, request.body))
        await asyncio.sleep(0)
        headers = CIMultiDict({"Audit-Id": attempt.audit_id})
        if not request.path.endswith("/token"):
            body: dict[str, Any] = {"kind": "PartialObjectMetadata", "metadata": {"name": "x", "uid": "u"}}
            return Answer(200, headers, json.dumps(body).encode())
        self.waiting += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.anchors_are_gone:
            refusal = {"kind": "Status", "status": "Failure", "details": {"kind": "secrets"}}
            raise anchor_gone(404, json.dumps(refusal).encode(), attempt, "x") or AssertionError
        return Answer(200, headers, json.dumps(self._token(request.body["spec"])).encode())

    def hold(self) -> asyncio.Event:
        """From now on minting waits for this."""
        self.waiting, self.gate = 0, asyncio.Event()
        return self.gate

    def _token(self, spec: dict[str, Any]) -> dict[str, Any]:
        begin, seconds = int(self.now.timestamp()), spec["expirationSeconds"]
        claims: dict[str, Any] = {"jti": f"jti-{next(self.numbers)}", "iat": begin, "exp": begin + seconds}
        claims["aud"] = ["https://wider"] if self.spoiled else spec["audiences"]
        self.spoiled = max(0, self.spoiled - 1)
        bound = spec.get("boundObjectRef")
        if bound is not None:
            claims["kubernetes.io"] = {"secret": {"name": bound["name"], "uid": bound.get("uid", "u")}}
        self.minted[claims["jti"]] = datetime.fromtimestamp(claims["exp"], NOW.tzinfo)
        return token_reply(minted(**claims), seconds)


class Again(World):
    """A world with a role, in which time goes on as the test says."""

    def __init__(self, folder: Path, policies: str = PERMIT_ALL, **fields: Any) -> None:
        self.mint = MintingConnection()
        super().__init__(folder, policies, connection=self.mint, clock=lambda: self.mint.now)
        self.catalog.put(config())
        with self.database.writer.begin() as connection:
            self.config_store.insert(config())(connection)
        self.catalog.put(role(**fields))

    def later(self, by: timedelta) -> None:
        """Time goes on."""
        self.mint.now += by

    async def issue(self, request_id: str = ID, bearer_token: str = ADMIN_TOKEN, **fields: Any) -> Any:
        """Issue a token."""
        request = pb.IssueTokenRequest(**{"role": "roles/ci", "request_id": request_id, **fields})
        return await self.call(request, {"authorization": f"Bearer {bearer_token}"})

    async def refused(self, request: Message | None = None, **fields: Any) -> tuple[str, str]:
        """Status and reason of a call that must fail."""
        with pytest.raises(Refused) as refusal:
            await (self.issue(**fields) if request is None else self.call(request))
        return refusal.value.status.message, refusal.value.detail(error_details_pb2.ErrorInfo).reason

    async def step(self, *, renewal: bool = False) -> Any:
        """The first token of a stream, or one that follows on it."""
        (service,) = [service for service in self.services if isinstance(service, IssueService)]

        async def handle(call: Call) -> Message:
            call.stream = "the first call's id" if renewal else ""
            return await service.issue_on_stream(call)

        method = Method(service.name, "StreamTokens", pb.StreamTokensRequest, reads=False, streams=True)
        request = pb.StreamTokensRequest(issue=pb.IssueTokenRequest(role="roles/ci", request_id=ID))
        shown = context({"authorization": f"Bearer {ADMIN_TOKEN}"})
        behave = behavior(method, handle, self.interceptors)
        return pb.IssueTokenResponse.FromString(await behave(sending(request.SerializeToString()), shown))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What is in a table."""
        with self.database.writer.begin() as connection:
            return [row._asdict() for row in connection.execute(sa.select(metadata.tables[table]))]

    def lease(self, name: str) -> Lease:
        """A lease as it is in the store."""
        found = self.database.read_now(lambda connection: lease_store.get(connection, name))
        assert found is not None
        return found

    def do(self, change: Any) -> None:
        """Another process makes a change."""
        with self.database.writer.begin() as connection:
            change(connection)


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Again]:
    """A world whose role's tokens stand on nothing."""
    made = Again(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("revocation", ["NONE", "PER_LEASE", "PER_CALLER", "PER_ROLE"])
async def test_a_call_that_is_made_again_gets_another_token_of_its_lease(tmp_path: Path, revocation: str) -> None:
    """It has the same lease and another token that ends with the lease at the latest, and nothing else is made."""
    again = Again(tmp_path, revocation=revocation)

    first = await again.issue()
    made = sum(path.endswith("/secrets") for path, _ in again.mint.asked)
    again.later(MINUTE)
    second = await again.issue()
    others = await again.issue(OTHER_ID)

    assert (first.lease, first.replayed, second.replayed, others.replayed) == (second.lease, False, True, False)
    assert others.lease != first.lease
    assert (first.jti, second.jti) == ("jti-1", "jti-2")
    assert second.granted_ttl.ToTimedelta() in (timedelta(seconds=3539), timedelta(seconds=3540))
    assert second.token_expiration.ToSeconds() <= first.expiration.ToSeconds()
    assert second.expiration == first.expiration
    bound = [body["spec"].get("boundObjectRef") for path, body in again.mint.asked if path.endswith("/token")]
    assert bound[0] == bound[1]
    if revocation != "PER_LEASE":
        assert sum(path.endswith("/secrets") for path, _ in again.mint.asked) == made
    found = again.lease(first.lease)
    assert [token.jti for token in found.tokens] == ["jti-1", "jti-2"]
    assert found.stored_state == "ACTIVE"
    again.close()


async def test_the_audit_log_shows_it(again: Again) -> None:
    """Intent and completion of the second call say that it is a replay, of which request id, and of which lease."""
    first = await again.issue()
    await again.issue()

    intent, done = again.lines()[-2:]
    assert [line.get("replayed") for line in again.lines()] == [None, None, True, True]
    assert (intent["stage"], intent["lease"]) == ("STAGE_INTENT", first.lease)
    assert (done["stage"], done["lease"], done["jti"]) == ("STAGE_COMPLETE", first.lease, "jti-2")
    assert done["request"] == {"role": "roles/ci", "requestId": ID}
    assert again.registry.get_sample_value("kubevend_replays_total", {"role": "roles/ci"}) == 1
    assert again.registry.get_sample_value("kubevend_issuances_total", {"role": "roles/ci"}) == 2


async def test_a_request_id_in_other_letters_is_the_same(again: Again) -> None:
    """A UUID is the same one in upper case."""
    assert (await again.issue()).lease == (await again.issue(ID.upper())).lease


async def test_without_a_request_id_each_call_has_a_lease(again: Again) -> None:
    """Who gives none gets a lease for each call, and nothing is kept of it."""
    assert (await again.issue("")).lease != (await again.issue("")).lease
    assert again.rows("requests") == []


async def test_validate_only_neither_uses_nor_takes_a_request_id(again: Again) -> None:
    """A rehearsal says what a first call would get, and leaves the id free."""
    await again.issue(validate_only=True)
    assert again.rows("requests") == []
    await again.issue()
    assert not (await again.issue(validate_only=True, namespace="apps")).lease


async def test_other_fields_are_another_call(again: Again) -> None:
    """The same id with any other field is refused, and told for which role it was."""
    await again.issue()
    again.catalog.put(role(name="roles/other"))
    others: list[dict[str, Any]] = [
        {"namespace": "apps"},
        {"service_account_name": "deployer"},
        {"audiences": ["https://api"]},
        {"ttl": {"seconds": 3600}},
        {"min_ttl": {"seconds": 600}},
        {"role": "roles/other"},
    ]

    for fields in others:
        message, reason = await again.refused(**fields)
        assert reason == "REQUEST_ID_REUSED", fields
        assert "roles/ci" in message
    assert len(again.rows("leases")) == 1


async def test_the_window(again: Again) -> None:
    """After ten minutes the id is a new one, with other fields too."""
    first = await again.issue()
    again.later(timedelta(seconds=600))
    second = await again.issue(namespace="apps")
    third = await again.issue(namespace="apps")

    assert first.lease != second.lease == third.lease
    assert [row["lease"] for row in again.rows("requests")] == [second.lease]


async def test_a_lease_that_has_ended(again: Again) -> None:
    """Of a lease that was revoked nobody gets another token, and no new lease either."""
    first = await again.issue()
    await again.call(lease_service_pb2.RevokeLeaseRequest(name=first.lease))

    message, reason = await again.refused()

    assert reason == "REQUEST_ID_LEASE_ENDED"
    assert first.lease in message
    assert len(again.rows("tokens")) == 1


async def test_too_little_is_left(tmp_path: Path) -> None:
    """Where Kubernetes mints no token for what is left, the call is refused with the rest; nothing is asked of it."""
    for number, revocation in enumerate(["NONE", "PER_CALLER", "PER_ROLE"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        again = Again(folder, revocation=revocation, ttl=timedelta(seconds=620))
        await again.issue()
        asked = len(again.mint.asked)
        again.later(timedelta(seconds=19))
        await again.issue()
        again.later(timedelta(seconds=2))
        with pytest.raises(Refused) as refusal:
            await again.issue()
        info = refusal.value.detail(error_details_pb2.ErrorInfo)
        assert (info.reason, info.metadata["left"]) == ("REQUEST_ID_LEASE_TOO_SHORT", "598s")
        assert len(again.mint.asked) == asked + 1
        again.close()


async def test_an_id_is_used_up(again: Again) -> None:
    """A lease has a hundred tokens at the most; a stream goes on with the next one."""
    first = await again.step()
    for _ in range(9):
        await asyncio.gather(*(again.step() for _ in range(11)))
    refused = await again.refused()
    other = await again.step()

    assert len(again.lease(first.lease).tokens) == 100
    assert refused[1] == "REQUEST_ID_USED_UP"
    assert (other.replayed, (await again.issue()).lease) == (False, other.lease)


async def test_a_short_rest_that_kubevend_itself_ends(tmp_path: Path) -> None:
    """Where the token ends with the lease's own anchor, any rest will do, and the reply says how little it is."""
    again = Again(tmp_path, revocation="PER_LEASE", ttl=MINUTE)
    first = await again.issue()
    again.later(timedelta(seconds=30))
    second = await again.issue()

    assert (second.lease, second.expiration) == (first.lease, first.expiration)
    assert second.granted_ttl.ToTimedelta() == timedelta(seconds=30)
    assert again.mint.asked[-1][1]["spec"]["expirationSeconds"] == 600
    again.close()


async def test_min_ttl_holds(again: Again) -> None:
    """A rest that is of no use to the caller is refused before a token is minted."""
    await again.issue(min_ttl={"seconds": 3500})
    again.later(timedelta(seconds=101))

    assert (await again.refused(min_ttl={"seconds": 3500}))[1] == "MIN_TTL_NOT_MET"
    assert len(again.mint.minted) == 1


async def test_it_is_decided_anew(again: Again) -> None:
    """Who has lost access gets no further token of the lease."""
    await again.issue()
    again.policies.take(Policies(AccessPolicy('@id("none") forbid(principal, action, resource);')), again.mint.now)

    assert (await again.refused())[1] in ("ACCESS_DENIED", "ROLE_NOT_FOUND")
    assert len(again.mint.minted) == 1


async def test_the_role_gives_something_else(again: Again) -> None:
    """Where the role no longer allows it that refusal comes; where it gives another thing by itself, its own."""
    await again.issue()
    again.catalog.put(role(allowed_service_accounts=("other",)))
    changed = await again.refused()
    again.catalog.put(role(revocation="PER_LEASE"))
    otherwise = await again.refused()
    again.catalog.put(role(allowed_namespaces=("a", "b")))
    unclear = await again.refused()

    assert [changed[1], otherwise[1], unclear[1]] == [
        "REQUEST_ID_ROLE_CHANGED",
        "REQUEST_ID_ROLE_CHANGED",
        "NAMESPACE_REQUIRED",
    ]
    assert len(again.mint.minted) == 1


async def test_a_role_that_gives_less_time(again: Again) -> None:
    """Another token lives no longer than the role gives by now."""
    await again.issue()
    again.catalog.put(role(max_ttl=timedelta(seconds=900)))
    second = await again.issue()

    assert second.granted_ttl.ToTimedelta() == timedelta(seconds=900)
    assert again.mint.asked[-1][1]["spec"]["expirationSeconds"] == 900


@pytest.mark.parametrize("revocation", ["NONE", "PER_LEASE", "PER_ROLE"])
async def test_many_at_once(tmp_path: Path, revocation: str) -> None:
    """Twenty calls with one id make one lease, for the others wait for the first of them."""
    again = Again(tmp_path, revocation=revocation)
    replies = await asyncio.gather(*(again.issue() for _ in range(20)))

    assert len({reply.lease for reply in replies}) == 1
    assert len({reply.jti for reply in replies}) == 20
    assert sorted(reply.replayed for reply in replies) == [False, *[True] * 19]
    assert len(again.rows("leases")) == 1
    assert len(again.rows("objects")) == (0 if revocation == "NONE" else 1)
    again.close()


async def minting(again: Again, call: asyncio.Task[Any]) -> None:
    """Wait until a token is about to be minted."""
    while not again.mint.waiting:
        assert not call.done()
        await asyncio.sleep(0)


@pytest.mark.parametrize("revocation", ["NONE", "PER_LEASE", "PER_ROLE"])
async def test_a_call_that_fails_leaves_its_id_free(tmp_path: Path, revocation: str) -> None:
    """Where the first call fails, the second one, which waits for it, issues the lease."""
    again = Again(tmp_path, revocation=revocation)
    gate = again.mint.hold()
    first = asyncio.create_task(again.refused())
    await minting(again, first)
    second = asyncio.create_task(again.issue())
    again.mint.spoiled = 1
    gate.set()

    reply = await second

    assert (await first)[1] == "TOKEN_NOT_AS_GRANTED"
    assert not reply.replayed
    assert [row["lease"] for row in again.rows("requests")] == [reply.lease]
    assert [row["name"] for row in again.rows("leases") if row["state"] == "ACTIVE"] == [reply.lease]
    again.close()


async def test_who_waits_can_give_up(again: Again) -> None:
    """A caller who goes away while it waits for another call leaves nothing, and what it waited for goes on."""
    gate = again.mint.hold()
    first = asyncio.create_task(again.issue())
    await minting(again, first)
    second = asyncio.create_task(again.issue())
    third = asyncio.create_task(again.issue())
    for _ in range(20):
        await asyncio.sleep(0)
    second.cancel()
    gate.set()

    assert (await first).lease == (await third).lease
    with pytest.raises(asyncio.CancelledError):
        await second
    await again.recorder.drain()
    assert again.request_ids.under_way == 0
    assert len(again.rows("leases")) == 1


@pytest.mark.parametrize("revocation", ["NONE", "PER_ROLE"])
async def test_a_revocation_that_comes_first_wins(tmp_path: Path, revocation: str) -> None:
    """No token leaves of a lease that was ended while it was minted; its row is not written either."""
    again = Again(tmp_path, revocation=revocation)
    first = await again.issue()
    gate = again.mint.hold()
    second = asyncio.create_task(again.refused())
    await minting(again, second)
    await again.journal.change(lambda c: ending.revoke(c, [again.lease(first.lease)], "by the test", again.mint.now))
    gate.set()

    assert (await second)[1] == "LEASE_ENDED"
    assert (await again.refused())[1] == "REQUEST_ID_LEASE_ENDED"
    assert len(again.rows("tokens")) == 1
    last = [line for line in again.lines() if line["stage"] == "STAGE_COMPLETE"][1]
    assert (last["outcome"], last["replayed"], last["jti"], last.get("lease")) == (
        "OUTCOME_FAILED",
        True,
        "jti-2",
        None,
    )
    again.close()


async def test_a_lease_that_runs_out_meanwhile(tmp_path: Path) -> None:
    """No token leaves of a lease whose time has run out while it was minted, though nobody has ended it yet."""
    again = Again(tmp_path, revocation="PER_LEASE", ttl=MINUTE)
    await again.issue()
    gate = again.mint.hold()
    second = asyncio.create_task(again.refused())
    await minting(again, second)
    again.later(MINUTE)
    gate.set()

    assert (await second)[1] == "LEASE_ENDED"
    again.close()


@pytest.mark.parametrize("revocation", ["PER_LEASE", "PER_ROLE"])
async def test_an_anchor_that_somebody_deleted(tmp_path: Path, revocation: str) -> None:
    """Where the lease's anchor is gone in the cluster, the lease has ended, and the caller is told."""
    again = Again(tmp_path, revocation=revocation)
    first = await again.issue()
    again.mint.anchors_are_gone = True

    assert (await again.refused())[1] == "REQUEST_ID_LEASE_ENDED"
    assert again.lease(first.lease).stored_state == "REVOKING"
    again.close()


def claim(of: Lease, **fields: Any) -> Claim:
    """The claim of a lease that another process issues, for the admin's call with nothing but the id."""
    once = once_of(ID, {"role": "roles/ci"}, "call")
    made = {"id": ID, "caller": BOOTSTRAP_ADMIN.name, "fingerprint": once.fingerprint, "terms": "t"}
    return Claim(**{**made, "role": "roles/ci", "lease": of.name, "create_time": NOW, **fields})


def written(again: Again, of: Lease, **fields: Any) -> None:
    """Another process has written a lease and its claim down."""

    def change(connection: sa.Connection) -> None:
        for table, row in (*lease_store.rows(of), *request_store.rows(claim(of, **fields))):
            connection.execute(sa.insert(table).values(row))

    again.do(change)


THEIRS = lease(7, caller=BOOTSTRAP_ADMIN.name, stored_state="PENDING", owner="other/1", tokens=())


async def test_another_process_is_at_it(again: Again) -> None:
    """While a process that lives is at a call with the id the caller is told to come again; nothing is minted."""
    written(again, THEIRS)
    again.do(lambda connection: replicas.beat(connection, "other", "other/1", NOW))

    with pytest.raises(Refused) as refusal:
        await again.issue()

    assert refusal.value.status.code == code_pb2.ABORTED
    assert refusal.value.detail(error_details_pb2.ErrorInfo).reason == "REQUEST_ID_IN_PROGRESS"
    assert refusal.value.detail(error_details_pb2.RetryInfo).retry_delay.ToTimedelta() == timedelta(seconds=1)
    assert not again.mint.asked


@pytest.mark.parametrize(
    "left",
    [
        THEIRS,
        replace(THEIRS, owner="main/1"),
        replace(THEIRS, stored_state="FAILED", owner="", end_time=NOW),
        replace(THEIRS, stored_state="REVOKED", owner="", end_time=NOW),
    ],
    ids=["of the dead", "given up here", "failed", "revoked before its token"],
)
async def test_what_came_to_nothing_is_taken_over(again: Again, left: Lease) -> None:
    """An id whose lease never had a token gets another lease, at once; the end of the old one changes nothing."""
    written(again, left, fingerprint="of other fields")

    reply = await again.issue()
    again.do(lambda connection: ending.fail(connection, left, (), "its issuance was interrupted", NOW))

    assert not reply.replayed
    assert [row["lease"] for row in again.rows("requests")] == [reply.lease]
    assert (await again.issue()).lease == reply.lease


@pytest.mark.parametrize("revocation", ["NONE", "PER_ROLE", "PER_LEASE"])
async def test_another_process_was_faster(tmp_path: Path, revocation: str) -> None:
    """Of two processes that issue at once under one id, one is refused, and its token dropped."""
    again = Again(tmp_path, revocation=revocation)
    gate = again.mint.hold()
    call = asyncio.create_task(again.refused())
    await minting(again, call)
    # The other one took this one for dead, or has seen nothing of it yet.
    theirs = replace(THEIRS, stored_state="ACTIVE", owner="")
    again.do(lambda connection: connection.execute(sa.delete(metadata.tables["requests"])))
    written(again, theirs)
    gate.set()

    assert (await call)[1] == "REQUEST_ID_IN_PROGRESS"
    await again.remover.close()
    assert again.rows("tokens") == []
    assert [row["lease"] for row in again.rows("requests")] == [theirs.name]
    ours = [row["state"] for row in again.rows("leases") if row["name"] != theirs.name]
    assert ours == {"NONE": [], "PER_ROLE": ["FAILED"], "PER_LEASE": ["REVOKING"]}[revocation]
    again.close()


async def test_another_callers_id(again: Again) -> None:
    """The same id of another caller is another one: it tells nothing, and gets a lease of its own."""
    written(again, replace(THEIRS, stored_state="ACTIVE"), caller="spiffe://prod/somebody", fingerprint="f")

    reply = await again.issue()

    assert not reply.replayed
    assert {(row["caller"], row["lease"]) for row in again.rows("requests")} == {
        ("spiffe://prod/somebody", THEIRS.name),
        (BOOTSTRAP_ADMIN.name, reply.lease),
    }


# Streams.


async def test_a_stream_that_is_opened_again(again: Again) -> None:
    """It goes on with the last lease of the one before, which each of its tokens takes the id to."""
    first = await again.step()
    again.later(timedelta(seconds=2400))
    second = await again.step(renewal=True)
    again.later(timedelta(seconds=300))
    restarted = await again.step()
    third = await again.step(renewal=True)

    assert len({first.lease, second.lease, third.lease}) == 3
    assert (restarted.lease, restarted.replayed) == (second.lease, True)
    assert [row["lease"] for row in again.rows("requests")] == [third.lease]


async def test_a_stream_whose_lease_has_little_left(tmp_path: Path) -> None:
    """Where a lease has less than a third left, or too little for a token, a stream goes on with the next one."""
    for number, (ttl, passed, goes_on) in enumerate([(3600, 590, True), (1200, 580, False), (840, 561, False)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        again = Again(folder, ttl=timedelta(seconds=ttl))
        first = await again.step()
        again.later(timedelta(seconds=passed))
        assert ((await again.step()).lease == first.lease) == goes_on, ttl
        again.close()


async def test_a_stream_whose_lease_is_over(again: Again) -> None:
    """After its time the next one follows; what was revoked stays so."""
    again.catalog.put(role(revocation="PER_LEASE", ttl=MINUTE))
    first = await again.step()
    again.later(MINUTE)
    second = await again.step()
    again.do(lambda c: ending.revoke(c, [again.lease(second.lease)], "by the test", again.mint.now))

    assert first.lease != second.lease
    with pytest.raises(Refused) as refusal:
        await again.step()
    assert refusal.value.detail(error_details_pb2.ErrorInfo).reason == "REQUEST_ID_LEASE_ENDED"


async def test_a_stream_through_a_role_that_gives_something_else(again: Again) -> None:
    """A stream goes on with what the role gives now, with a lease of its own."""
    first = await again.step()
    again.catalog.put(role(allowed_service_accounts=("other",)))
    second = await again.step()

    assert (second.replayed, second.service_account) == (False, "other")
    assert second.lease != first.lease


async def test_two_streams_with_one_id(again: Again) -> None:
    """Both are supplied, each with leases of its own once it goes on."""
    await asyncio.gather(again.step(), again.step())
    renewed = await asyncio.gather(*(again.step(renewal=True) for _ in range(4)))

    assert len({reply.lease for reply in renewed}) == 4
    assert len(again.rows("requests")) == 1


async def test_a_stream_whose_id_is_used_for_something_else(again: Again) -> None:
    """It goes on without it."""
    await again.step()
    again.later(timedelta(seconds=601))
    other = await again.issue(namespace="apps")
    renewed = await again.step(renewal=True)

    assert not renewed.replayed
    assert [row["lease"] for row in again.rows("requests")] == [other.lease]


# What is left of a lease.


@pytest.mark.parametrize("ahead", [-40, 0, 40])
def test_clocks_that_disagree(ahead: int) -> None:
    """Whichever clock is ahead, a token for what is left ends before the lease does, by the cluster's clock."""
    granted = NOW + timedelta(seconds=ahead)
    token = LeaseToken("j", "a", granted, granted + timedelta(hours=1))
    of = lease(expire_time=token.expire_time, tokens=(token,))
    for passed in (timedelta(0), timedelta(seconds=7.5), timedelta(seconds=1500)):
        left = time_left(of, NOW + passed)
        assert timedelta(0) < left <= timedelta(hours=1) - passed
        assert granted + passed + left <= of.expire_time


async def test_a_slow_cluster_moves_the_leases_end(again: Again) -> None:
    """A token that was stamped later than was reckoned with does not outlive its lease: that ends with it."""
    first = await again.issue()
    gate = again.mint.hold()
    second = asyncio.create_task(again.issue())
    await minting(again, second)
    again.later(timedelta(seconds=20))
    gate.set()
    reply = await second

    assert reply.token_expiration.ToSeconds() > first.expiration.ToSeconds()
    assert reply.expiration == reply.token_expiration
    assert again.lease(first.lease).expire_time == again.mint.minted["jti-2"]


# What it costs, and how long it is kept.


def test_each_look_up_takes_an_index(again: Again) -> None:
    """With a million of them a request id is found by its key, and purged by its time."""

    def work(connection: sa.Connection) -> None:
        request_store.find(connection, "caller", ID)
        request_store.lost(connection, [claim(THEIRS)])
        request_store.purge(connection, NOW, 500)

    steps = [step for _, found in plans(again.database.writer, work) for step in found]
    assert [step.split(" ")[0] for step in steps if "requests" in step] == ["SEARCH"] * 3


async def test_the_old_ones_are_forgotten(tmp_path: Path) -> None:
    """A request id goes when its window is over, whatever its lease does."""
    scene = Endings(tmp_path, role())
    leases = [lease(1), lease(2)]
    scene.add(*leases)
    for number, of in enumerate(leases):
        made = claim(of, id=str(number), create_time=NOW - timedelta(seconds=601) * number)
        for _, row in request_store.rows(made):
            scene.do(lambda connection, row=row: connection.execute(request_store.INSERT, [row]))
    scene.beat(ME)
    await scene.reconciler.look()

    with scene.database.writer.begin() as connection:
        assert list(connection.scalars(sa.text("SELECT id FROM requests"))) == ["0"]
    scene.close()


# Whatever happens.


class Calls(RuleBasedStateMachine):
    """Calls, calls made again, ends of leases and changes of the role, in any order, as time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.replies: list[Any] = []
        self.known: dict[str, tuple[datetime, str, str]] = {}

    @initialize(revocation=st.sampled_from(["NONE", "PER_LEASE", "PER_CALLER", "PER_ROLE"]))
    def begin(self, revocation: str) -> None:
        """A role."""
        self.revocation = revocation
        self.again = self.loop.run_until_complete(self._make())

    async def _make(self) -> Again:
        return Again(Path(self.folder.name), revocation=self.revocation, ttl=timedelta(minutes=15))

    @step(
        request_id=st.sampled_from([ID, OTHER_ID, ""]), namespace=st.sampled_from(["", "apps"]), count=st.integers(1, 3)
    )
    def issue(self, request_id: str, namespace: str, count: int) -> None:
        """Some calls at once, all the same."""

        async def calls() -> list[Any]:
            fields: dict[str, Any] = {"namespace": namespace} if namespace else {}
            made = (self.again.issue(request_id, **fields) for _ in range(count))
            return await asyncio.gather(*made, return_exceptions=True)

        for reply in self.loop.run_until_complete(calls()):
            if isinstance(reply, Refused):
                assert reply.detail(error_details_pb2.ErrorInfo).reason.startswith("REQUEST_ID_")
                continue
            assert not isinstance(reply, BaseException), reply
            found = self.again.lease(reply.lease)
            assert found.state(self.again.mint.now) == "ACTIVE"
            self.replies.append(reply)
            self._check(request_id, namespace, reply)

    def _check(self, request_id: str, namespace: str, reply: Any) -> None:
        """Within its window an id has one lease, and is good for one request."""
        now = self.again.mint.now
        since, fields, name = self.known.get(request_id, (now - timedelta(hours=1), "", ""))
        if request_id and now < since + timedelta(minutes=10):
            assert (reply.replayed, reply.lease, namespace) == (True, name, fields)
        else:
            assert not reply.replayed
            self.known[request_id] = (now, namespace, reply.lease)

    @step(minutes=st.integers(0, 8))
    def wait(self, minutes: int) -> None:
        """Time goes on, and what has run out is ended."""
        self.again.later(minutes * MINUTE)
        now = self.again.mint.now
        due = self.again.database.read_now(lambda connection: lease_ends.due(connection, now, 500))
        self.again.do(lambda connection: self.again.anchors.forget(ending.expire(connection, due, now)))

    @step(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        """A lease is ended before its time, with all that share its anchor."""
        live = [row["name"] for row in self.again.rows("leases") if row["state"] == "ACTIVE"]
        if not live:
            return
        found = self.again.lease(data.draw(st.sampled_from(sorted(live))))
        self.again.do(lambda connection: ending.revoke(connection, [found], "by the test", self.again.mint.now))
        self.again.anchors.forget({found.anchor})

    @step(account=st.sampled_from(["deployer", "other"]))
    def change(self, account: str) -> None:
        """The role gives something else."""
        changed = role(revocation=self.revocation, ttl=timedelta(minutes=15), allowed_service_accounts=(account,))
        self.again.catalog.put(changed)

    @invariant()
    def every_token_is_of_a_lease(self) -> None:
        """What was handed out is in the store, under its lease, and does not outlive it but for its anchor."""
        for reply in self.replies:
            found = self.again.lease(reply.lease)
            (token,) = [token for token in found.tokens if token.jti == reply.jti]
            assert token.expire_time == self.again.mint.minted[token.jti]
            assert (found.namespace, found.service_account) == (reply.namespace, reply.service_account)
            if self.revocation != "PER_LEASE":
                assert token.expire_time <= found.expire_time

    @invariant()
    def nothing_beside(self) -> None:
        """No lease was made but those that were handed out."""
        assert {row["name"] for row in self.again.rows("leases")} == {reply.lease for reply in self.replies}

    def teardown(self) -> None:
        """Close files."""
        if hasattr(self, "again"):
            self.loop.run_until_complete(self.again.remover.close())
            self.again.close()
        self.loop.close()
        self.folder.cleanup()


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from prometheus_client import CollectorRegistry

from kubevend.v1 import audit_event_pb2
from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server.audit.log import AuditLog
from kubevend_server.authentication.forwarded import Proxies, Proxy
from kubevend_server.callers import service_account
from kubevend_server.calls import Call
from kubevend_server.errors import KubevendError, OverLimit, Unauthenticated
from kubevend_server.gate import Gate
from kubevend_server.interceptors import Patience
from kubevend_server.journal import Journal
from kubevend_server.listeners import Listener, PeerCertificate
from kubevend_server.metrics import Metrics
from kubevend_server.refusals import Refusals
from kubevend_server.settings import LimitSettings
from kubevend_server.store.database import Database
from tests.unit.builders import PERMIT_ALL, SECRET, Stopwatch, call, shown
from tests.unit.world import HOST, Refused, World

OTHER = "ipv4:10.0.0.8:1"
ISSUE = iss.IssueTokenRequest(role="roles/ci")
CONFIG = cs.CreateConfigRequest(config_id="default", config=cs.Config(kubernetes_host=HOST, service_account_jwt=SECRET))
ROLE = rs.CreateRoleRequest(
    role_id="ci",
    role=rs.Role(allowed_namespaces=["apps"], allowed_service_accounts=["x"], allowed_audiences=["https://api"]),
)
PERMIT_ROLES = """@id("roles")
permit(principal, action in [Action::"CreateConfig", Action::"CreateRole", Action::"UseConfig"], resource);
"""


@contextmanager
def limited(folder: Path, policies: str = PERMIT_ALL, **limits: Any) -> Iterator[tuple[World, Stopwatch]]:
    """A server with limits, and its stopwatch."""
    stopwatch = Stopwatch()
    world = World(folder, policies, limited=LimitSettings(**limits), monotonic=stopwatch)
    yield world, stopwatch
    world.close()


async def refused(world: World, request: Any, **how: Any) -> tuple[str, float | None]:
    """The reason with which a call is refused, and the seconds after which to try again."""
    with pytest.raises(Refused) as caught:
        await world.call(request, **how)
    reason = caught.value.detail(error_details_pb2.ErrorInfo).reason
    try:
        delay = caught.value.detail(error_details_pb2.RetryInfo).retry_delay
    except ValueError:
        return reason, None
    return reason, delay.ToTimedelta().total_seconds()


def refusals_of(world: World) -> list[dict[str, Any]]:
    """The events that sum up refusals, each of which is an AuditEvent, without what differs from run to run."""
    lines = [line for line in world.lines() if line["stage"] == "STAGE_REFUSED"]
    for line in lines:
        json_format.Parse(json.dumps(line), audit_event_pb2.AuditEvent())
    varying = ("sequence", "time", "previousHash", "hash")
    return [{key: value for key, value in line.items() if key not in varying} for line in lines]


async def test_a_source_is_held_to_its_rate(tmp_path: Path) -> None:
    """Beyond its burst a source's calls are refused before anybody asks whose they are, until its rate lets it in, and
    those of other sources are not. One event sums the refusals up, and none is written for each.
    """
    with limited(tmp_path, source_per_second=2, source_burst=3) as (world, stopwatch):
        assert [await refused(world, ISSUE) for _ in range(5)] == [
            *[("ROLE_NOT_FOUND", None)] * 3,
            *[("SOURCE_LIMIT", 0.5)] * 2,
        ]
        assert await refused(world, ISSUE, metadata={}) == ("SOURCE_LIMIT", 0.5)
        assert await refused(world, ISSUE, peer=OTHER) == ("ROLE_NOT_FOUND", None)
        stopwatch.now += 0.5
        assert await refused(world, ISSUE) == ("ROLE_NOT_FOUND", None)

        before = len(world.lines())
        await world.refusals.flush()
        assert len(world.lines()) == before + 1
        await world.refusals.flush()
        assert refusals_of(world) == [
            {
                "stage": "STAGE_REFUSED",
                "source": "ipv4:10.0.0.7",
                "outcome": "OUTCOME_FAILED",
                "status": "RESOURCE_EXHAUSTED",
                "reason": "SOURCE_LIMIT",
                "message": "Too many calls come from ipv4:10.0.0.7: 2 a second are let in, 3 at once "
                "(limits.source_per_second, limits.source_burst). Try again in 0.5 s.",
                "refusedCalls": "3",
            }
        ]
        assert world.registry.get_sample_value("kubevend_refused_calls_total", {"limit": "SOURCE_LIMIT"}) == 3


@pytest.mark.parametrize(
    ("peers", "together"),
    [
        (("ipv4:10.0.0.7:1", "ipv4:10.0.0.7:2"), True),
        (("ipv6:[2001:db8::1]:1", "ipv6:[2001:db8::ffff:1]:2"), True),
        (("ipv6:%5B2001:db8::1%5D:1", "ipv6:%5B2001:db8:0:1::1%5D:1"), False),
        (("ipv4:10.0.0.7:1", "ipv6:[::ffff:10.0.0.7]:1"), True),
        (("ipv6:[fe80::1%25eth0]:1", "ipv6:[fe80::2%25eth1]:1"), True),
        (("unix:", "unix:"), True),
    ],
)
async def test_what_counts_as_one_source(tmp_path: Path, peers: tuple[str, str], *, together: bool) -> None:
    """An IPv4 address, whatever its port and its notation; of IPv6 a /64; a Unix socket that is no proxy's."""
    with limited(tmp_path, source_per_second=1, source_burst=1) as (world, _):
        assert (await refused(world, ISSUE, peer=peers[0]))[0] == "ROLE_NOT_FOUND"
        assert ((await refused(world, ISSUE, peer=peers[1]))[0] == "SOURCE_LIMIT") is together


async def test_a_source_that_fails_is_no_longer_asked_about(tmp_path: Path) -> None:
    """After so many calls that show no accepted credential a source's calls are refused before anything is asked, but
    for those with a credential that was accepted before; other sources are not affected.
    """
    with limited(tmp_path, source_failures_per_second=1, source_failures_burst=2) as (world, stopwatch):
        nobody = {"authorization": "Bearer nonsense"}
        assert [await refused(world, ISSUE, metadata=nobody) for _ in range(3)] == [
            *[("TOKEN_MALFORMED", None)] * 2,
            ("SOURCE_FAILURES_LIMIT", 1.0),
        ]
        assert await refused(world, ISSUE) == ("SOURCE_FAILURES_LIMIT", 1.0)
        assert await refused(world, ISSUE, peer=OTHER) == ("ROLE_NOT_FOUND", None)
        assert await refused(world, ISSUE) == ("ROLE_NOT_FOUND", None)
        stopwatch.now += 1
        assert await refused(world, ISSUE, metadata=nobody) == ("TOKEN_MALFORMED", None)


async def test_a_caller_is_held_to_its_rate(tmp_path: Path) -> None:
    """Beyond its burst a caller's calls are refused from wherever they come; the event names the caller."""
    with limited(tmp_path, caller_per_second=1, caller_burst=2) as (world, stopwatch):
        assert [(await refused(world, ISSUE, peer=f"ipv4:10.0.0.{n}:1")) for n in range(4)] == [
            *[("ROLE_NOT_FOUND", None)] * 2,
            *[("CALLER_LIMIT", 1.0)] * 2,
        ]
        stopwatch.now += 1
        assert await refused(world, ISSUE) == ("ROLE_NOT_FOUND", None)
        await world.refusals.flush()
        assert refusals_of(world) == [
            {
                "stage": "STAGE_REFUSED",
                "caller": {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"},
                "source": "ipv4:10.0.0.2",
                "outcome": "OUTCOME_FAILED",
                "status": "RESOURCE_EXHAUSTED",
                "reason": "CALLER_LIMIT",
                "message": "admin://local/bootstrap makes too many calls: 1 a second are let in, 2 at once "
                "(limits.caller_per_second, limits.caller_burst). Try again in 1 s.",
                "refusedCalls": "2",
            }
        ]


async def test_a_role_is_held_to_its_rate(tmp_path: Path) -> None:
    """Beyond its burst no more tokens are asked for through a role; another role is not affected."""
    with limited(tmp_path, role_per_second=1, role_burst=1) as (world, stopwatch):
        await world.call(CONFIG)
        await world.call(ROLE)
        other = rs.CreateRoleRequest()
        other.CopyFrom(ROLE)
        other.role_id = "other"
        await world.call(other)
        foreseen = iss.IssueTokenRequest(role="roles/ci", validate_only=True)
        await world.call(foreseen)
        assert await refused(world, ISSUE) == ("ROLE_LIMIT", 1.0)
        await world.call(iss.IssueTokenRequest(role="roles/other", validate_only=True))
        stopwatch.now += 1
        await world.call(foreseen)
        await world.refusals.flush()
        (event,) = refusals_of(world)
        assert (event["resource"], event["caller"]["name"]) == ("roles/ci", "admin://local/bootstrap")


async def test_a_roles_limit_does_not_tell_that_it_exists(tmp_path: Path) -> None:
    """Whoever may not see a role is told that there is none, however often they ask."""
    with limited(tmp_path, PERMIT_ROLES, role_per_second=1, role_burst=1) as (world, _):
        await world.call(CONFIG)
        await world.call(ROLE)
        assert [await refused(world, ISSUE) for _ in range(3)] == [("ROLE_NOT_FOUND", None)] * 3


PROXIES = Proxies(
    [
        Proxy("mesh", frozenset({"example.org"})),
        Proxy("edge", frozenset({"example.org"}), "spiffe://example.org/envoy"),
    ]
)


def gate(**limits: Any) -> Gate:
    """A gate of its own."""
    return Gate(LimitSettings(**limits), Metrics(CollectorRegistry()), Stopwatch(), PROXIES.carries_others)


def by(name: str, **overrides: Any) -> Call:
    """A call of a ServiceAccount."""
    return call(caller=service_account("prod", "apps", name), **overrides)


async def held(admit: Callable[..., Any], made: Call, end: asyncio.Event) -> None:
    """Let a call in, and keep it under way until the end."""

    async def handle(_: Call) -> Any:
        await end.wait()

    await admit(made, handle)


async def begin(admit: Callable[..., Any], *made: Call) -> Callable[[], Any]:
    """Begin calls; what comes back ends them."""
    end = asyncio.Event()
    tasks = [asyncio.create_task(held(admit, each, end)) for each in made]
    await asyncio.sleep(0)

    async def finish() -> None:
        end.set()
        await asyncio.gather(*tasks)

    return finish


async def over(admit: Callable[..., Any], made: Call) -> str:
    """The setting for which a call is refused; empty where it is let in."""

    async def handle(_: Call) -> Any:
        return None

    try:
        await admit(made, handle)
    except OverLimit as refusal:
        return refusal.metadata["setting"] if refusal.retry_after and refusal.reason == "TOO_MANY_IN_FLIGHT" else "?"
    return ""


async def test_a_caller_has_so_many_under_way() -> None:
    """What is more is refused until some are done; other callers are let in meanwhile."""
    tried = gate(in_flight_per_caller=2)
    finish = await begin(tried.admit_caller, by("a"), by("a"))
    assert await over(tried.admit_caller, by("a")) == "limits.in_flight_per_caller"
    assert await over(tried.admit_caller, by("b")) == ""
    await finish()
    assert await over(tried.admit_caller, by("a")) == ""


async def test_the_server_has_so_many_under_way() -> None:
    """Beyond, only callers are let in who have none, up to twice as many."""
    tried = gate(in_flight=2, in_flight_per_caller=2)
    ends = [await begin(tried.admit_caller, by("a"), by("b"))]
    assert await over(tried.admit_caller, by("a")) == "limits.in_flight"
    ends.append(await begin(tried.admit_caller, by("c"), by("d")))
    assert await over(tried.admit_caller, by("e")) == "limits.in_flight"
    for finish in ends:
        await finish()
    assert await over(tried.admit_caller, by("a")) == ""


async def test_a_source_has_so_many_under_way() -> None:
    """What is more is refused, but for calls by a proxy's socket or its certificate: they may be anybody's."""
    tried = gate(in_flight_per_source=1, source_per_second=1, source_burst=2)
    finish = await begin(tried.admit_source, by("a"))
    assert await over(tried.admit_source, by("b")) == "limits.in_flight_per_source"
    assert await over(tried.admit_source, by("b", peer=OTHER)) == ""
    by_socket = shown({}, Listener("mesh", proxy="mesh"))
    envoy = PeerCertificate(("spiffe://example.org/envoy",), "f1")
    by_certificate = shown({}, Listener("example.org", trust_domain="example.org"), envoy)
    proxied = [by("a", shown=through) for through in (by_socket, by_certificate) for _ in range(9)]
    await (await begin(tried.admit_source, *proxied))()
    two = PeerCertificate((*envoy.uris, "spiffe://example.org/other"), "f2")
    assert await over(tried.admit_source, by("a", shown=shown({}, by_certificate.listener, two))) != ""
    await finish()
    assert await over(tried.admit_source, by("b")) == ""


async def test_what_comes_by_a_proxy_excuses_nobody_else() -> None:
    """A caller whom a proxy vouches for shows no credential; who shows none to kubevend itself is no less a failure."""
    tried = gate(source_failures_per_second=1, source_failures_burst=1)
    await (await begin(tried.admit_caller, by("a", shown=shown({}, Listener("mesh", proxy="mesh")))))()

    async def fail(_: Call) -> Any:
        raise Unauthenticated("CREDENTIAL_MISSING", "none")

    with pytest.raises(Unauthenticated):
        await tried.admit_source(call(caller=None, shown=shown({})), fail)
    await (await begin(tried.admit_caller, by("a", shown=shown({}, Listener("mesh", proxy="mesh")))))()
    with pytest.raises(OverLimit, match="source_failures_per_second"):
        await tried.admit_source(call(caller=None, shown=shown({})), fail)


async def test_a_flood_from_everywhere_is_bounded(database: Database, audit: AuditLog, tmp_path: Path) -> None:
    """So many sources have events of their own in a period, and the others share one."""
    journal = Journal(database, audit)
    refusals = Refusals(journal, Metrics(CollectorRegistry()), most_sums=2)

    async def refuse(made: Call) -> Any:
        raise OverLimit("SOURCE_LIMIT", "Too many.", subject=made.source)

    for number in [1, 2, 3, 4, 1]:
        with pytest.raises(OverLimit):
            await refusals.sum_up(call(peer=f"ipv4:10.0.0.{number}:1"), refuse)
    await refusals.flush()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line.get("source"), line["refusedCalls"]) for line in lines] == [
        ("ipv4:10.0.0.1", "2"),
        ("ipv4:10.0.0.2", "1"),
        (None, "2"),
    ]


async def test_sums_outlive_a_full_disk(database: Database, audit: AuditLog, tmp_path: Path) -> None:
    """Sums that cannot be written are written with the next ones."""

    class Full(Journal):
        full = True

        async def commit(self, entry: Any) -> None:
            if self.full:
                raise KubevendError("NOT_RECORDED", "The disk is full.")
            await super().commit(entry)

    journal = Full(database, audit)
    refusals = Refusals(journal, Metrics(CollectorRegistry()))

    async def refuse(made: Call) -> Any:
        raise OverLimit("SOURCE_LIMIT", "Too many.", subject=made.source)

    for full in (True, False):
        with pytest.raises(OverLimit):
            await refusals.sum_up(call(), refuse)
        journal.full = full
        await refusals.flush()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["refusedCalls"] for line in lines] == ["2"]


async def never() -> bytes:
    """A request that does not come."""
    await asyncio.Event().wait()
    return b""


async def test_a_request_that_never_comes_is_given_up() -> None:
    """Whose headers came, and whose message does not, is told so and counted by its source."""

    async def handle(_: Call) -> Any:
        raise AssertionError

    with pytest.raises(OverLimit) as caught:
        await Patience(0.01, 60).receive(call(receive=never), handle)
    assert (caught.value.reason, caught.value.subject) == ("REQUEST_UNFINISHED", "ipv4:10.0.0.7")


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    """The call is cancelled, and its caller told; a timeout of something within is none of the call's."""

    async def wait(_: Call) -> Any:
        await asyncio.Event().wait()

    async def time_out(_: Call) -> Any:
        raise TimeoutError

    with pytest.raises(KubevendError) as caught:
        await Patience(60, 0.01).receive(call(), wait)
    assert (caught.value.reason, caught.value.status) == ("CALL_TOO_SLOW", "DEADLINE_EXCEEDED")
    with pytest.raises(TimeoutError):
        await Patience(60, 60).receive(call(), time_out)

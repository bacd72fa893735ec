"""ListLeases shows what the caller may get, all of it and nothing else, and looks at few leases for a page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend.v1 import lease_service_pb2
from kubevend_server.callers import BOOTSTRAP_ADMIN, workload
from kubevend_server.leases import Lease
from kubevend_server.names import new_lease_name
from kubevend_server.policy.access import AccessPolicy
from kubevend_server.policy.entities import Circumstances
from kubevend_server.policy.parsing import PolicyError, parse
from kubevend_server.policy.policies import Policies
from kubevend_server.policy.visible import ALL
from kubevend_server.store.lease_filters import MOST_SCANNED
from tests.unit.builders import NOW, PERMIT_ALL, lease, role
from tests.unit.test_lease_lists import add
from tests.unit.world import World

ME = BOOTSTRAP_ADMIN.name
LISTS = '@id("lists") permit(principal, action == Action::"ListLeases", resource);'
CONDITIONS = [
    "resource.caller == principal.name",
    "resource.caller != principal.name",
    'resource.role == "roles/a"',
    '"roles/gone" == resource.role',
    '["roles/a", "roles/b"].contains(resource.role)',
    'resource.config == "configs/a"',
    'resource.namespace == "apps"',
    'resource.namespace != "kube-system"',
    'resource.service_account == "deployer"',
    'resource.role like "roles/*a"',
    'resource.hasTag("team") && resource.getTag("team") == "payments"',
    'resource.hasTag("team")',
    'resource == Lease::"leases/none"',
    "resource.namespace == resource.service_account",
    'context.mechanism == "bootstrap_token"',
    'context.mechanism == "mtls"',
    "principal is Admin",
    '{"has": resource.caller, "left": 1}.has == principal.name',
    'if resource.role == "roles/a" then resource.caller == principal.name else resource.namespace == "apps"',
]
LABELS = {"roles/a": (("team", "payments"),), "roles/b": (("team", "web"),), "roles/c": ()}


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy on leases, without its id; some have a scope in which nothing holds."""
    resource = draw(st.sampled_from(["resource", "resource is Lease", 'resource == Role::"roles/a"']))
    conditions = draw(st.lists(st.sampled_from(CONDITIONS), max_size=3))
    glue = draw(st.sampled_from([" && ", " || "]))
    kind = draw(st.sampled_from(["when", "when", "unless"]))
    condition = f"{kind} {{ {glue.join(f'({each})' for each in conditions)} }}" if conditions else ""
    effect = draw(st.sampled_from(["permit", "permit", "permit", "forbid"]))
    return f'{effect}(principal, action in [Action::"GetLease", Action::"GetRole"], {resource}) {condition};'


def usable(policy: str) -> bool:
    """Whether a policy fits the schema."""
    try:
        parse({"": f'@id("x") {policy}'})
    except PolicyError:
        return False
    return True


LEASES = st.builds(
    lease,
    st.integers(1, 10_000),
    role=st.sampled_from([*LABELS, "roles/gone"]),
    config=st.sampled_from(["configs/a", "configs/b"]),
    caller=st.sampled_from([ME, "spiffe://td/x"]),
    namespace=st.sampled_from(["apps", "kube-system", "deployer"]),
    service_account=st.sampled_from(["deployer", "other"]),
    expire_time=st.integers(1, 3).map(lambda hours: NOW + timedelta(hours=hours)),
    tokens=st.just(()),
)


@contextmanager
def worlds(written: str) -> Iterator[World]:
    """A world with these policies and three roles."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), policies=written)
        for name, labels in LABELS.items():
            world.catalog.put(role(name=name, labels=labels))
        yield world
        world.close()


async def listed(world: World, **fields: Any) -> tuple[list[str], int]:
    """The names in all pages of a list, and how many pages it has."""
    request = lease_service_pb2.ListLeasesRequest(**fields)
    names: list[str] = []
    for pages in range(1, 1000):
        reply = await world.call(request)
        names += [each.name for each in reply.leases]
        if not reply.next_page_token:
            return names, pages
        request.page_token = reply.next_page_token
    raise AssertionError("the list has no end")


def may_get(world: World, each: Lease) -> bool:
    """The access policy's own answer."""
    labels = LABELS.get(each.role, ())
    circumstances = Circumstances(NOW, "10.0.0.7", role_labels=labels)
    return world.policies.current.authorize(BOOTSTRAP_ADMIN, "GetLease", each, circumstances).allowed


FILTERS: list[dict[str, Any]] = [{}, {"role": "roles/a"}, {"caller": ME}, {"namespace": "apps", "config": "configs/a"}]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(policies().filter(usable), min_size=1, max_size=4),
    st.lists(LEASES, max_size=25, unique_by=lambda each: each.name),
    st.integers(1, 4),
)
async def test_a_list_is_what_the_caller_may_get(written: list[str], stored: list[Lease], size: int) -> None:
    """Whatever the policies, the filter and the size of the pages: all pages together have each lease once that the
    policies let the caller get and the filter finds, the newest first.
    """
    numbered = "".join(f'@id("p{number}") {policy}' for number, policy in enumerate(written))
    with worlds(LISTS + numbered) as world:
        add(world.database, *stored)
        visible = [each for each in sorted(stored, key=lambda it: it.name, reverse=True) if may_get(world, each)]
        for wanted in FILTERS:
            names, _ = await listed(world, page_size=size, filter=wanted)
            fitting = [each for each in visible if all(getattr(each, key) == value for key, value in wanted.items())]
            assert names == [each.name for each in fitting]


# How many leases are looked at.


def many(count: int, **fields: Any) -> list[Lease]:
    """Leases that nobody here has."""
    granted = [NOW - timedelta(milliseconds=number) for number in range(count)]
    values = {"caller": "spiffe://td/x", "role": "roles/c", "tokens": (), **fields}
    return [lease(name=new_lease_name(moment), create_time=moment, **values) for moment in granted]


BY_KIND = [
    ("resource.caller == principal.name", {"caller": ME}),
    ('resource.role == "roles/a" && resource.caller == principal.name', {"caller": ME, "role": "roles/a"}),
    ('resource.hasTag("team") && resource.getTag("team") == "payments"', {"role": "roles/a"}),
    ('["apps", "web"].contains(resource.namespace)', {"namespace": "web"}),
]


@pytest.mark.parametrize(("condition", "fields"), BY_KIND)
async def test_what_a_caller_may_get_is_looked_for(condition: str, fields: dict[str, str]) -> None:
    """Where the policies tell of fields and labels, the one lease among thousands that the caller may get is on the
    first page, and there is no other page.
    """
    permit = f'@id("p") permit(principal, action == Action::"GetLease", resource) when {{ {condition} }};'
    with worlds(LISTS + permit) as world:
        values: dict[str, Any] = {"caller": "spiffe://td/y", "role": "roles/c", "namespace": "other", **fields}
        mine = lease(tokens=(), **values)
        add(world.database, *many(3 * MOST_SCANNED, namespace="hidden"), mine)
        assert await listed(world) == ([mine.name], 1)


async def test_a_page_looks_at_a_bounded_number_of_leases() -> None:
    """Where each lease must be decided by itself, a page looks at a thousand, and those that show nothing come empty
    with a token for the next.
    """
    like = '@id("p") permit(principal, action == Action::"GetLease", resource) when { resource.namespace like "m*e" };'
    with worlds(LISTS + like) as world:
        mine = lease(tokens=(), namespace="mine")
        add(world.database, *many(3 * MOST_SCANNED), mine)
        assert await listed(world, page_size=1000) == ([mine.name], 4)


@pytest.mark.parametrize("count", [31, 40])
async def test_many_roles_of_few_labels_are_few_decisions(count: int) -> None:
    """However many roles there are, those with the same labels are decided once; where a caller may get leases of more
    roles than are worth a look-up each, all leases are looked through.
    """
    team = '@id("p") permit(principal, action == Action::"GetLease", resource) when { resource.hasTag("team") };'
    policy = AccessPolicy(LISTS + team)
    labels = {f"roles/r{number}": (("team", "a"),) if number < count else () for number in range(1000)}
    kinds = policy.gettable(BOOTSTRAP_ADMIN, Circumstances(NOW), labels)
    assert kinds == ([{"role": name} for name in sorted(labels) if labels[name]] if count < 32 else ALL)


CALLER = workload("spiffe://td/ns/apps/sa/runner")
OWN = '@id("a") permit(principal, action, resource is Lease) when { resource.caller == principal.name };'
TRUSTED = "namespace == principal.trust_domain"


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        ("", []),
        (PERMIT_ALL, [{}]),
        ('@id("p") permit(principal is Admin, action, resource);', []),
        (
            OWN + '@id("b") permit(principal, action, resource is Lease) when { resource.role == "roles/a" };',
            [{"role": "roles/a"}, {"caller": CALLER.name}],
        ),
        (
            OWN.replace("principal,", "principal is Workload,").replace("caller == principal.name", TRUSTED),
            [{"namespace": "td"}],
        ),
        (
            PERMIT_ALL + '@id("no") forbid(principal, action, resource is Lease) when { resource.role == "roles/a" };',
            [{}],
        ),
        ('@id("p") permit(principal, action, resource == Lease::"leases/1");', [{}]),
    ],
)
def test_the_kinds_of_leases_that_a_caller_may_get(written: str, kinds: Sequence[dict[str, str]]) -> None:
    """What the policies say of leases is told in the fields that an index finds, or as all leases."""
    found = Policies(AccessPolicy(written)).gettable(CALLER, Circumstances(NOW), LABELS)
    assert list(found) == kinds

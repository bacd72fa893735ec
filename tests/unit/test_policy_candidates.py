"""Few of many policies are evaluated, and the answer is that of all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, oidc_subject, service_account, workload
from kubevend_server.policy.access import AccessPolicy, question
from kubevend_server.policy.candidates import Candidates, facts_of
from kubevend_server.policy.entities import Circumstances, Resource, Server
from kubevend_server.policy.parsing import PolicyError, parse
from kubevend_server.policy.terms import terms
from tests.unit.builders import NAMING, NOW, asked, config, lease, limits, role

EVERY = 10_000

PRINCIPALS = [
    "principal",
    "principal is ServiceAccount",
    'principal == ServiceAccount::"kubernetes://prod/ci/runner"',
    'principal == Workload::"spiffe://td/a"',
    'principal in Group::"a"',
    'principal in Group::"okta:b"',
    'principal is Workload in Group::"a"',
    'principal is OidcSubject in Group::"okta:b"',
    'principal in ServiceAccount::"kubernetes://prod/ci/runner"',
]
ACTIONS = [
    "action",
    'action == Action::"IssueToken"',
    'action == Action::"GetRole"',
    'action in Action::"view"',
    'action in [Action::"administer", Action::"IssueToken"]',
    'action in [Action::"GetLease", Action::"RevokeLease"]',
    "action in []",
]
RESOURCES = [
    "resource",
    "resource is Role",
    'resource == Role::"roles/ci"',
    'resource in Role::"roles/ci"',
    'resource is Role in Role::"roles/b"',
    "resource is Lease",
    'resource == Config::"configs/default"',
]
CONDITIONS = [
    "true",
    'principal.name == "spiffe://td/a"',
    '"kubernetes://prod/ci/runner" == principal.name',
    '["admin://local/bootstrap", "spiffe://td/a"].contains(principal.name)',
    'principal is ServiceAccount && principal.cluster == "prod"',
    'principal is ServiceAccount && principal has pod && principal.pod == "p"',
    'principal is OidcSubject && principal.hasTag("repository") && principal.getTag("repository") == "acme/shop"',
    'principal in Group::"a"',
    'principal in [Group::"okta:b", Group::"c"]',
    'principal is Workload || principal in Group::"c"',
    'resource is Role && resource.hasTag("team") && resource.getTag("team") == "payments"',
    'resource is Role && resource.hasTag("team")',
    'resource is Role && resource.config == Config::"configs/default"',
    'resource is Lease && resource.role == "roles/ci"',
    "resource is Lease && resource.caller == principal.name",
    'resource == Role::"roles/ci"',
    'resource == Role::"roles/ci" || resource == Role::"roles/b"',
    'context.mechanism == "mtls"',
    'context.mechanism == "mtls" || context.mechanism == "oidc"',
    "context has source",
    'context has source && context.source.isInRange(ip("10.0.0.0/8"))',
    'context has namespace && context.namespace == "apps"',
    'context.namespace == "apps"',
    'context.namespace like "ap*"',
    "context.ttl > 100",
    # These err: the first always, the second where Cedar comes to it.
    "context.ttl * 9223372036854775807 > 0",
    'context.namespace == "web" && context.ttl * 9223372036854775807 > 0',
    'context.ttl * 9223372036854775807 > 0 && context.namespace == "web"',
    'context.mechanism == "oidc" || context.ttl * 9223372036854775807 > 0',
    '!(context.mechanism == "oidc")',
    'if context.mechanism == "oidc" then principal.name == "x" else true',
]
CALLERS: list[Caller] = [
    BOOTSTRAP_ADMIN,
    service_account("prod", "ci", "runner"),
    service_account("dev", "ci", "runner", pod="p"),
    replace(workload("spiffe://td/a"), groups=("a", "c")),
    workload("spiffe://td/b", proxy="mesh"),
    oidc_subject("okta", "me", (("repository", "acme/shop"),), groups=("okta:b",)),
]
RESOURCES_ASKED: list[tuple[str, Resource]] = [
    *(
        (action, each)
        for action in ("GetRole", "IssueToken", "IssueToken", "IssueToken", "DeleteRole")
        for each in (role(), role(name="roles/b"))
    ),
    ("IssueToken", role(labels=(), config="configs/b")),
    *((action, lease()) for action in ("GetLease", "RevokeLease")),
    ("GetLease", lease(role="roles/b", caller="spiffe://td/a")),
    ("GetConfig", config()),
    ("UseConfig", config(name="configs/b")),
    ("ListRoles", Server()),
]


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy, without its id."""
    # Mostly a scope in which much holds, so that it comes to the conditions.
    wide = ("principal", 'action == Action::"IssueToken"', "resource")
    scope = ", ".join(
        draw(st.just(usual) | st.sampled_from(each))
        for usual, each in zip(wide, (PRINCIPALS, ACTIONS, RESOURCES), strict=True)
    )
    kinds = st.sampled_from(["when", "when", "when", "unless"])
    conditions = draw(st.lists(st.tuples(kinds, st.sampled_from(CONDITIONS)), max_size=2))
    written = " ".join(f"{kind} {{ {condition} }}" for kind, condition in conditions)
    return f"{draw(st.sampled_from(['permit', 'permit', 'forbid']))}({scope}) {written};"


@cache
def fits(policy: str) -> bool:
    """Whether a policy fits the schema: not every condition can be asked of everything."""
    try:
        parse({"": f'@id("x") {policy}'})
    except PolicyError:
        return False
    return True


def circumstances(action: str, source: str) -> Circumstances:
    """What is asked about a call."""
    offered = terms(role(), asked(), limits(), NAMING) if action == "IssueToken" else None
    return Circumstances(NOW, source, offered)


@settings(max_examples=80)
@given(
    st.lists(policies().filter(fits), min_size=6, max_size=16),
    st.lists(
        st.tuples(st.sampled_from(CALLERS), st.sampled_from(RESOURCES_ASKED), st.sampled_from(["", "10.1.2.3", "odd"])),
        min_size=10,
        max_size=20,
    ),
)
def test_the_answer_is_that_of_all_policies(
    written: list[str], questions: list[tuple[Caller, tuple[str, Resource], str]]
) -> None:
    """Whatever the policies, the decision, the policies that made it and the errors are the same whether those are
    evaluated that can matter, or all of them.
    """
    parsed = parse({"": "\n".join(f'@id("p{number}") {policy}' for number, policy in enumerate(written))})
    chosen, every = AccessPolicy(parsed, most_chosen=EVERY), AccessPolicy(parsed, most_chosen=-1)
    for caller, (action, resource), source in questions:
        asked_ = circumstances(action, source)
        assert chosen.authorize(caller, action, resource, asked_) == every.authorize(caller, action, resource, asked_)


SHAPES = [
    'permit(principal == ServiceAccount::"kubernetes://prod/n{0}/runner", action, resource);',
    'permit(principal, action, resource == Role::"roles/{0}");',
    'permit(principal in Group::"g{0}", action == Action::"IssueToken", resource is Role);',
    'permit(principal, action, resource is Role) when {{ resource.hasTag("a") && resource.getTag("a") == "{0}" }};',
    (
        "permit(principal is OidcSubject, action, resource) when {{ "
        'principal.hasTag("repository") && principal.getTag("repository") == "acme/{0}" }};'
    ),
    'permit(principal is Workload, action == Action::"IssueToken", resource) when {{ context.namespace == "{0}" }};',
    'permit(principal, action, resource) when {{ principal.name == "kubernetes://prod/n{0}/runner" }};',
]


@pytest.mark.parametrize("shape", SHAPES)
def test_few_of_many_are_evaluated(shape: str) -> None:
    """Where each of many policies is for somebody or something else, by its scope or by its first condition, at most
    one of them can matter.
    """
    parsed = parse({"": "\n".join(f'@id("p{number}") {shape.format(number)}' for number in range(50))})
    candidates = Candidates(parsed.by_id)
    callers = [
        service_account("prod", "n7", "runner"),
        replace(workload("spiffe://td/a"), groups=("g7", "other")),
        oidc_subject("github", "me", (("repository", "acme/7"),)),
    ]
    found = set()
    for caller in callers:
        of = role(name="roles/7", labels=(("a", "7"),))
        request, known = question(
            caller,
            "IssueToken",
            of,
            Circumstances(NOW, "", terms(role(allowed_namespaces=("7",)), asked(), limits(), NAMING)),
        )
        found.add(candidates.find(facts_of(request, known)))
    assert found - {()} == {("p7",)}


def test_many_that_can_matter_are_evaluated_together() -> None:
    """Where more policies can matter than are worth a set of their own, all are evaluated, with the same answer."""
    parsed = parse({"": "\n".join(f'@id("p{number}") permit(principal, action, resource);' for number in range(5))})
    decisions = {
        AccessPolicy(parsed, most_chosen=most).authorize(BOOTSTRAP_ADMIN, "ListRoles", Server(), Circumstances(NOW))
        for most in (-1, 4, 5)
    }
    assert [(each.allowed, len(each.policies)) for each in decisions] == [(True, 5)]

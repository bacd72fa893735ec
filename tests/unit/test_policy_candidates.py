"""Few of many policies are evaluated, and the answer is that of all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, oidc_subject, service_account, workload
from kubevend_server.configs import Config
from kubevend_server.policy.access import AccessPolicy, question
from kubevend_server.policy.candidates import Candidates
from kubevend_server.policy.entities import Circumstances, Resource, Server
from kubevend_server.policy.parsing import PolicyError, parse
from kubevend_server.policy.questions import Question
from kubevend_server.policy.terms import Terms, terms
from kubevend_server.roles import Role
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
    'action in [Action::"CreateRole", Action::"UpdateRole"]',
    'action == Action::"UpdateConfig"',
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
    'if context.mechanism == "oidc" then principal.name == "x" else true',
    # Numbers and moments.
    "context.ttl > 899 && context.ttl < 901",
    "context.ttl >= 900 && context.ttl <= 900",
    "900 < context.ttl",
    "600 >= context.ttl",
    "context.ttl < 600 || context.ttl > 3600",
    "context.ttl == 900",
    "context.ttl != 900",
    "context.ttl != 900 || context.ttl != 600",
    'context.time < datetime("2026-05-04T12:00:00Z")',
    'context.time >= datetime("2026-05-04T12:00:00Z")',
    'datetime("2026-05-04") < context.time',
    'context.time > datetime("2026-05-04T14:00:00+0200")',
    'context.time.toTime() < duration("12h")',
    'context.time.offset(duration("1h")) > datetime("2026-05-04")',
    # Patterns.
    'context.namespace like "team-3-*"',
    'context.namespace like "*-a"',
    'context.namespace like "team-*-a"',
    'context.namespace like "*3*"',
    '!(context.namespace like "*3*")',
    '!(context.namespace like "team-*x*")',
    # What begins and ends so need not be like it: team-a.
    '!(context.namespace like "team-*-a")',
    'context.namespace like "*"',
    'context.namespace like "apps"',
    'context.namespace like "te\\*m-*"',
    'principal.name like "spiffe://td/*" || context.namespace like "team-3*"',
    'resource is Role && resource.hasTag("team") && resource.getTag("team") like "pay*"',
    # Sets.
    'context.audiences.contains("https://api")',
    'context.audiences.containsAny(["https://b", "x"])',
    'context.audiences.containsAll(["https://api", "https://b"])',
    '["https://api", "y"].containsAll(context.audiences)',
    '["https://api"].containsAny(context.audiences)',
    "context.audiences.contains(principal.name)",
    "context.audiences.isEmpty()",
    'context.audiences == ["https://api"]',
    'resource is Role && resource.allowed_namespaces.contains("web")',
    "resource is Role && resource.allowed_namespaces.contains(context.namespace)",
    'resource is Role && resource.extra_labels.contains("a=b")',
    'resource is Role && ["a=b", "c=d"].containsAll(resource.extra_labels)',
    "[principal.name].contains(context.namespace)",
    '["apps", context.mechanism].contains(context.namespace)',
    # What two have in common.
    "principal is ServiceAccount && principal.namespace == context.namespace",
    "principal is Workload && principal has namespace && principal.namespace == context.namespace",
    "resource is Lease && resource.caller != principal.name",
    (
        'principal is OidcSubject && principal.hasTag("repository") && resource is Role && resource.hasTag("repo") && '
        'principal.getTag("repository") == resource.getTag("repo")'
    ),
    # Within others.
    'resource is Role && resource.config.hasTag("stage") && resource.config.getTag("stage") == "prod"',
    'context.proposed.hasTag("team") && context.proposed.getTag("team") == "payments"',
    "resource is Role && context.proposed.config == resource.config",
    'resource is Role && ["apps", "web"].containsAll(context.proposed.allowed_namespaces)',
    "resource is Role && !context.proposed.has_namespace_selector",
    'resource is Config && context.proposed.hasTag("stage")',
    "context has current_credential && context.current_credential == context.credential",
    'context.kubernetes_host like "https://10.*"',
    'context.credential_files.contains("/a")',
    # Networks.
    'context has source && context.source.isInRange(ip("10.1.2.3"))',
    'context has source && context.source.isInRange(ip("10.1.2.3/15"))',
    'context has source && context.source.isInRange(ip("2001:db8::/33"))',
    'context has source && context.source.isInRange(ip("0.0.0.0/0"))',
    'context has source && (context.source.isInRange(ip("192.168.0.0/16")) || context.source.isInRange(ip("::/0")))',
    "context has source && context.source.isIpv6()",
    # Truth values.
    "context.cluster_wide",
    "context.cluster_wide == false",
    "false",
    "resource is Role && resource.has_namespace_selector",
    # Where no question comes to it, what is of another type passes.
    "resource is Role && resource is Lease && resource.role > 5",
    # Kinds.
    "!(principal is Admin)",
    'principal is Workload in Group::"a"',
    'principal != ServiceAccount::"kubernetes://prod/ci/runner"',
    'resource is Role && resource.config != Config::"configs/default"',
    'resource.config in [Config::"configs/b", Config::"configs/c"]',
    '[Role::"roles/ci", Role::"roles/c"].contains(resource)',
    # These err: always, or where Cedar comes to it.
    "context.ttl * 9223372036854775807 > 0",
    'context.namespace == "web" && context.ttl * 9223372036854775807 > 0',
    'context.ttl * 9223372036854775807 > 0 && context.namespace == "web"',
    'context.mechanism == "oidc" || context.ttl * 9223372036854775807 > 0',
    "context.ttl > 600 && context.ttl + 9223372036854775000 > 0",
    "context.ttl + 9223372036854775000 > 0 || context.ttl > 600",
    'if context.ttl * 9223372036854775807 > 0 then context.namespace == "web" else context.namespace == "x"',
    'ServiceAccount::"kubernetes://prod/nobody/x".cluster == "prod"',
    '[ServiceAccount::"kubernetes://prod/nobody/x".cluster].contains(context.mechanism)',
    'context.mechanism == "mtls" && Workload::"spiffe://td/nobody".path like "/a*"',
]
CALLERS: list[Caller] = [
    BOOTSTRAP_ADMIN,
    service_account("prod", "ci", "runner"),
    service_account("dev", "ci", "runner", pod="p"),
    replace(workload("spiffe://td/a"), groups=("a", "c")),
    workload("spiffe://td/b", proxy="mesh"),
    oidc_subject("okta", "me", (("repository", "acme/shop"),), groups=("okta:b",)),
]
ROLES = [
    role(),
    role(name="roles/b", labels=(("repo", "acme/shop"),), allowed_namespaces=("apps", "web", "team-3-a", "team-a")),
    role(
        labels=(), config="configs/b", extra_labels=(("a", "b"),), allowed_audiences=("https://api", "https://b", "x")
    ),
]
CONFIGS = [config(), config(name="configs/b", labels=(("stage", "prod"),))]
PROPOSED: list[Role | Config] = [*ROLES, *CONFIGS]
RESOURCES_ASKED: list[tuple[str, Resource]] = [
    *((action, each) for action in ("GetRole", "DeleteRole", "CreateRole", "UpdateRole") for each in ROLES),
    *(("IssueToken", each) for each in ROLES * 8),
    *((action, lease()) for action in ("GetLease", "RevokeLease")),
    ("GetLease", lease(role="roles/b", caller="spiffe://td/a")),
    *((action, each) for action in ("GetConfig", "UseConfig", "CreateConfig", "UpdateConfig") for each in CONFIGS),
    ("ListRoles", Server()),
]
SOURCES = ["", "10.1.2.3", "10.0.255.1", "192.168.7.7", "2001:db8::1", "2001:db8:8000::1", "::ffff:10.1.2.3", "odd"]


def conditions() -> st.SearchStrategy[str]:
    """One of the conditions, or several of them joined in any way."""

    def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        forms = ["({0}) && ({1})", "({0}) || ({1})", "!({0})", "!(({0}) && ({1}))", "if {0} then {1} else {2}"]
        return st.builds(str.format, st.sampled_from(forms), inner, inner, inner)

    return st.recursive(st.sampled_from(CONDITIONS), joined, max_leaves=4)


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy, without its id."""
    # Mostly a scope in which much holds, so that it comes to the conditions.
    wide = ("principal", 'action == Action::"IssueToken"', "resource")
    scope = ", ".join(
        draw(st.just(usual) | st.sampled_from(each))
        for usual, each in zip(wide, (PRINCIPALS, ACTIONS, RESOURCES), strict=True)
    )
    kinds = st.sampled_from(["when", "when", "unless"])
    drawn = draw(st.lists(st.tuples(kinds, conditions()), max_size=3))
    written = " ".join(f"{kind} {{ {condition} }}" for kind, condition in drawn)
    return f"{draw(st.sampled_from(['permit', 'permit', 'forbid']))}({scope}) {written};"


@cache
def fits(policy: str) -> bool:
    """Whether a policy fits the schema: not every condition can be asked of everything."""
    try:
        parse({"": f'@id("x") {policy}'})
    except PolicyError:
        return False
    return True


@dataclass(frozen=True)
class Asking:
    """A question, but for the policies that it is put to."""

    caller: Caller
    action: str
    resource: Resource
    circumstances: Circumstances


@st.composite
def questions(draw: st.DrawFn) -> Asking:
    """A question: mostly for a token."""
    action, resource = draw(st.sampled_from(RESOURCES_ASKED))
    offered: Terms | None = None
    proposed: Role | Config | None = None
    if action == "IssueToken":
        assert isinstance(resource, Role)
        chosen = asked(
            namespace=draw(st.sampled_from(resource.allowed_namespaces)),
            ttl=timedelta(seconds=draw(st.sampled_from([600, 899, 900, 901, 3600]))),
            audiences=tuple(draw(st.lists(st.sampled_from(resource.allowed_audiences), min_size=1, unique=True))),
        )
        offered = terms(resource, chosen, limits(), NAMING)
    elif action.endswith(("Role", "Config")) and action.startswith(("Create", "Update")):
        proposed = draw(st.sampled_from([each for each in PROPOSED if type(each) is type(resource)]))
    moment = draw(st.sampled_from([NOW, NOW.replace(hour=11, minute=59), NOW.replace(day=3)]))
    labels = (("configs/b", (("stage", "prod"),)),)
    return Asking(
        draw(st.sampled_from(CALLERS)),
        action,
        resource,
        Circumstances(moment, draw(st.sampled_from(SOURCES)), offered, proposed, config_labels=labels),
    )


@settings(max_examples=80)
@given(
    st.lists(policies().filter(fits), min_size=6, max_size=16),
    st.lists(questions(), min_size=10, max_size=20),
)
def test_the_answer_is_that_of_all_policies(written: list[str], put: list[Asking]) -> None:
    """Whatever the policies, the decision, the policies that made it and the errors are the same whether those are
    evaluated that can matter, or all of them.
    """
    parsed = parse({"": "\n".join(f'@id("p{number}") {policy}' for number, policy in enumerate(written))})
    chosen, every = AccessPolicy(parsed, most_chosen=EVERY), AccessPolicy(parsed, most_chosen=-1)
    for each in put:
        question_ = (each.caller, each.action, each.resource, each.circumstances)
        assert chosen.authorize(*question_) == every.authorize(*question_)


def every_way() -> Iterator[Asking]:
    """Questions in which each value that policies look at is now this, now that."""
    asked_of: list[tuple[str, Resource, Terms | None, Role | Config | None]] = [("GetLease", lease(), None, None)]
    asked_of += [("UpdateConfig", each, None, each) for each in CONFIGS]
    for of in ROLES:
        asked_of += [("GetRole", of, None, None), ("UpdateRole", of, None, of)]
        for namespace, seconds in itertools.product(of.allowed_namespaces, (600, 900, 3600)):
            wanted = asked(
                namespace=namespace, ttl=timedelta(seconds=seconds), audiences=of.allowed_audiences[: seconds // 600]
            )
            asked_of.append(("IssueToken", of, terms(of, wanted, limits(), NAMING), None))
    for caller, source in itertools.product(CALLERS, ("", "10.1.2.3", "2001:db8:8000::1")):
        for action, resource, offered, proposed in asked_of:
            yield Asking(caller, action, resource, Circumstances(NOW, source, offered, proposed))


@pytest.mark.parametrize("kind", ["when", "unless"])
def test_no_condition_is_left_out_where_it_matters(kind: str) -> None:
    """Each condition by itself, and its contrary: what permits or errs in the whole set is always chosen."""
    scopes = [f'principal, action == Action::"{name}", resource' for name in ("IssueToken", "UpdateRole", "GetRole")]
    scopes += ['principal, action == Action::"UpdateConfig", resource', 'principal, action in Action::"view", resource']
    written = [f"permit({scope}) {kind} {{ {condition} }};" for scope in scopes for condition in CONDITIONS]
    usable = [policy for policy in written if fits(policy)]
    parsed = parse({"": "\n".join(f'@id("p{number}") {policy}' for number, policy in enumerate(usable))})
    candidates, every = Candidates(parsed.by_id), AccessPolicy(parsed, most_chosen=-1)
    for each in every_way():
        decision = every.authorize(each.caller, each.action, each.resource, each.circumstances)
        matter = {*decision.policies, *re.findall(r"`(p\d+)`", " ".join(decision.errors))}
        put = question(each.caller, each.action, each.resource, each.circumstances)
        missing = matter - {*candidates.ids(candidates.find(Question(*put)))}
        assert [usable[int(identity[1:])] for identity in missing] == []


SHAPES = [
    'permit(principal == ServiceAccount::"kubernetes://prod/n{0}/runner", action, resource);',
    'permit(principal, action, resource == Role::"roles/{0}");',
    'permit(principal in Group::"g{0}", action == Action::"IssueToken", resource is Role);',
    'permit(principal, action, resource is Role) when {{ resource.hasTag("a") && resource.getTag("a") == "{0}" }};',
    (
        "permit(principal is OidcSubject, action, resource) when {{ "
        'principal.hasTag("repository") && principal.getTag("repository") == "acme/{0}" }};'
    ),
    (
        'permit(principal is Workload, action == Action::"IssueToken", resource) when '
        '{{ context.namespace == "{0}-a{0}" }};'
    ),
    'permit(principal, action, resource) when {{ principal.name == "kubernetes://prod/n{0}/runner" }};',
    *(
        f'permit(principal, action == Action::"IssueToken", resource) {condition};'
        for condition in (
            "when {{ context.ttl > {0}000 && context.ttl < {0}200 }}",
            "when {{ context.ttl >= {0}100 && !(context.ttl > {0}100) }}",
            "unless {{ context.ttl < {0}000 || {0}900 < context.ttl }}",
            'when {{ context.namespace like "{0}-*" }}',
            'when {{ context.namespace like "*-a{0}" }}',
            'when {{ context.namespace like "{0}-*" || context.namespace like "nobody-{0}-*" }}',
            'when {{ context.audiences.contains("https://{0}") }}',
            'when {{ context.audiences.containsAny(["https://{0}", "nobody"]) && context.ttl > 5 }}',
            'unless {{ !context.audiences.containsAll(["https://{0}", "https://api"]) }}',
            'when {{ ["https://api", "https://{0}"].containsAll(context.audiences) }}',
            'when {{ resource.allowed_namespaces.contains("{0}-a{0}") }}',
            'when {{ !(context.namespace != "{0}-a{0}") }}',
            'when {{ context has source && context.source.isInRange(ip("10.{0}.0.0/16")) }}',
            'when {{ if context.cluster_wide then false else context.service_account == "s{0}" }}',
            'when {{ resource.config.hasTag("stage") && resource.config.getTag("stage") == "s{0}" }}',
            "when {{ context.namespace != context.service_account }} when {{ context.ttl == {0}100 }}",
            # What comes before may not be understood, as long as it cannot err.
            'when {{ context.namespace like "*a*" }} when {{ context.ttl == {0}100 }}',
        )
    ),
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
    wanted = asked(ttl=timedelta(seconds=7100), audiences=("https://api", "https://7"))
    found = set()
    for caller in callers:
        of = role(
            name="roles/7",
            labels=(("a", "7"),),
            allowed_namespaces=("7-a7",),
            allowed_audiences=("https://api", "https://7"),
            allowed_service_accounts=("s7",),
        )
        offered = terms(of, wanted, limits(), NAMING)
        request, known = question(
            caller,
            "IssueToken",
            of,
            Circumstances(NOW, "10.7.0.1", offered, config_labels=(("configs/default", (("stage", "s7"),)),)),
        )
        found.add(candidates.ids(candidates.find(Question(request, known))))
    assert found - {()} == {("p7",)}


def test_many_that_can_matter_are_evaluated_together() -> None:
    """Where more policies can matter than are worth a set of their own, all are evaluated, with the same answer."""
    parsed = parse({"": "\n".join(f'@id("p{number}") permit(principal, action, resource);' for number in range(5))})
    decisions = {
        AccessPolicy(parsed, most_chosen=most).authorize(BOOTSTRAP_ADMIN, "ListRoles", Server(), Circumstances(NOW))
        for most in (-1, 4, 5)
    }
    assert [(each.allowed, len(each.policies)) for each in decisions] == [(True, 5)]

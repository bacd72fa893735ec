from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from kubevend.v1 import config_service_pb2, identity_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from kubevend_server.callers import BOOTSTRAP_ADMIN, service_account
from kubevend_server.configs import Config, Credential
from kubevend_server.policy.access import (
    DECIDED_AS,
    AccessPolicy,
    Circumstances,
    Decision,
    PolicyError,
    Resource,
    Server,
    actions,
)
from kubevend_server.policy.terms import terms
from kubevend_server.roles import Role
from tests.unit.builders import NAMING, NOW, PERMIT_ALL, asked, config, lease, limits, role

RUNNER = service_account("prod", "ci", "runner")
DENIED = Decision(False, ())
SERVICES = ("ConfigService", "RoleService", "IssueService", "LeaseService", "IdentityService")

_DESCRIBED = (config_service_pb2, role_service_pb2, issue_service_pb2, lease_service_pb2, identity_service_pb2)


def _methods() -> set[str]:
    pool = descriptor_pool.Default()
    services = [pool.FindServiceByName(f"kubevend.v1.{name}") for name in SERVICES]
    return {method.name for service in services for method in service.methods} - DECIDED_AS.keys()


def _issue(policies: str, of: Any = None, caller: Any = RUNNER, source: str = "", **request: Any) -> Decision:
    of = of or role()
    circumstances = Circumstances(NOW, source, terms(of, asked(**request), limits(), NAMING))
    return AccessPolicy(policies).authorize(caller, "IssueToken", of, circumstances)


def test_the_schema_knows_every_method_and_nothing_else() -> None:
    """The actions are the methods of the services that are not decided as another, `UseConfig`, and the two groups."""
    assert actions() == _methods() | {"UseConfig", "view", "administer"}
    assert set(DECIDED_AS.values()) - {""} <= _methods()


def _circumstances(action: str) -> Circumstances:
    if action == "IssueToken":
        return Circumstances(NOW, terms=terms(role(), asked(), limits(), NAMING))
    proposed: dict[str, Role | Config] = {"CreateRole": role(), "UpdateRole": role()}
    proposed |= {"CreateConfig": config(), "UpdateConfig": config()}
    return Circumstances(NOW, proposed=proposed.get(action))


def _resource(action: str) -> Resource:
    kinds: dict[str, Resource] = {"s": Server(), "Config": config(), "Lease": lease()}
    return next((kind for end, kind in kinds.items() if action.endswith(end)), role())


@pytest.mark.parametrize("action", sorted(_methods() | {"UseConfig"}))
@pytest.mark.parametrize("caller", [BOOTSTRAP_ADMIN, RUNNER])
def test_what_no_policy_permits_is_denied(action: str, caller: Any) -> None:
    """Without policies everyone is denied everything, the bootstrap admin included, and with one that permits all
    everyone may do everything.
    """
    resource, circumstances = _resource(action), _circumstances(action)
    assert AccessPolicy("").authorize(caller, action, resource, circumstances) == DENIED
    permitted = AccessPolicy(PERMIT_ALL).authorize(caller, action, resource, circumstances)
    assert permitted == Decision(True, ("everything",))


@pytest.mark.parametrize("group", ["view", "administer"])
def test_a_group_holds_its_actions_and_no_others(group: str) -> None:
    """`view` is what reads, `administer` what writes and looks into clusters, and neither issues tokens."""
    policy = AccessPolicy(f'@id("group") permit(principal, action in Action::"{group}", resource);')
    allowed = {
        action
        for action in _methods() | {"UseConfig"}
        if policy.authorize(RUNNER, action, _resource(action), _circumstances(action)).allowed
    }
    reads = {name for name in _methods() if name.startswith(("Get", "List", "Watch"))}
    changing = ("Create", "Update", "Delete", "Check", "Revoke")
    writes = {name for name in _methods() if name.startswith(changing)} | {"UseConfig"}
    assert allowed == (reads if group == "view" else writes)


def test_a_forbid_wins_and_is_named() -> None:
    """A forbid outweighs a permit, and the decision names the forbid."""
    no_prod = (
        '@id("no-prod") forbid(principal, action == Action::"IssueToken", resource) when '
        '{ context.namespace == "apps" };'
    )
    assert _issue(PERMIT_ALL + no_prod) == Decision(False, ("no-prod",))


def test_every_policy_that_permits_is_named_in_order() -> None:
    """A decision names all policies that made it, sorted."""
    also = '@id("also") permit(principal is ServiceAccount, action, resource);'
    assert _issue(PERMIT_ALL + also) == Decision(True, ("also", "everything"))


@pytest.mark.parametrize(
    "policies",
    [
        "permit(principal, action, resource);",
        PERMIT_ALL + "permit(principal, action, resource);",
        '@id("") permit(principal, action, resource);',
        "@id permit(principal, action, resource);",
    ],
)
def test_a_policy_without_an_id_is_refused(policies: str) -> None:
    """Every policy has an @id that is not empty."""
    with pytest.raises(PolicyError, match="has no @id"):
        AccessPolicy(policies)


def test_two_policies_with_one_id_are_refused() -> None:
    """An @id belongs to one policy, so that a decision that names it is clear."""
    with pytest.raises(PolicyError, match="two policies have the @id 'everything'"):
        AccessPolicy(PERMIT_ALL + PERMIT_ALL)


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("resource.allowed_namespace == 1", "allowed_namespace"),
        ("context.nothing", "nothing"),
        ("principal.name == 1 && 1", "Bool"),
        ("ip(context.namespace).isIpv4()", "literal"),
        ('resource.getTag("team") == "x"', "team"),
    ],
)
def test_a_policy_that_does_not_fit_the_schema_is_refused(condition: str, told: str) -> None:
    """A policy that asks about what is not there, or that could err by its types, stops the start and is named."""
    policy = '@id("odd") permit(principal, action == Action::"IssueToken", resource) when { CONDITION };'
    with pytest.raises(PolicyError, match=told) as refusal:
        AccessPolicy(policy.replace("CONDITION", condition))
    assert "odd" in str(refusal.value)


@pytest.mark.parametrize(
    "policies",
    [
        "permit(",
        '@id("x") permit(principal is Nobody, action, resource);',
        '@id("x") permit(principal, action == Action::"StealToken", resource);',
    ],
)
def test_text_that_is_no_policy_is_refused(policies: str) -> None:
    """What does not parse, or names types and actions that do not exist, stops the start."""
    with pytest.raises(PolicyError):
        AccessPolicy(policies)


def test_a_template_is_refused() -> None:
    """A template takes effect only once it is linked, which kubevend never does: an operator who writes a forbid
    with a slot must not believe that it holds.
    """
    with pytest.raises(PolicyError):
        AccessPolicy(PERMIT_ALL + '@id("slot") forbid(principal == ?principal, action, resource);')


@pytest.mark.parametrize(
    "condition",
    [
        "context.ttl * 9223372036854775807 > 0",
        "context.ttl + 9223372036854775807 > 0",
    ],
)
def test_a_forbid_that_errs_denies(condition: str) -> None:
    """Cedar skips a forbid whose condition errs; kubevend denies, and the decision says why."""
    errs = f'@id("errs") forbid(principal, action == Action::"IssueToken", resource) when {{ {condition} }};'
    decision = _issue(PERMIT_ALL + errs)
    assert (decision.allowed, decision.policies) == (False, ("everything",))
    assert decision.errors


def test_a_permit_that_errs_denies() -> None:
    """An error in one policy denies although another permits."""
    errs = (
        '@id("errs") permit(principal, action == Action::"IssueToken", resource) when '
        "{ context.ttl * 9223372036854775807 > 0 };"
    )
    decision = _issue(PERMIT_ALL + errs)
    assert not decision.allowed
    assert decision.errors


@given(st.text(max_size=40))
def test_an_address_that_is_none_denies(source: str) -> None:
    """Whatever stands where the peer's address should be, the answer is a decision, and one that permits only if the
    address was understood or absent.
    """
    decision = AccessPolicy(PERMIT_ALL).authorize(RUNNER, "ListRoles", Server(), Circumstances(NOW, source))
    assert decision.allowed == (not decision.errors)


@pytest.mark.parametrize(
    ("source", "allowed"),
    [("10.1.2.3", True), ("192.168.0.1", False), ("::1", False), ("", False), ("not an address", False)],
)
def test_a_policy_can_ask_from_where(source: str, allowed: bool) -> None:
    """`context.source` is the peer's address, absent where it has none, and one that is no address denies."""
    near = (
        '@id("near") permit(principal, action == Action::"ListRoles", resource) when '
        '{ context has source && context.source.isInRange(ip("10.0.0.0/8")) };'
    )
    decision = AccessPolicy(near).authorize(RUNNER, "ListRoles", Server(), Circumstances(NOW, source))
    assert decision.allowed is allowed


@pytest.mark.parametrize(
    ("labels", "allowed"), [((("team", "payments"),), True), ((("team", "web"),), False), ((), False)]
)
def test_a_policy_can_ask_for_labels(labels: tuple[tuple[str, str], ...], allowed: bool) -> None:
    """A role's labels are tags of the resource."""
    policy = (
        '@id("mine") permit(principal, action == Action::"IssueToken", resource) when '
        '{ resource.hasTag("team") && resource.getTag("team") == "payments" };'
    )
    assert _issue(policy, of=role(labels=labels)).allowed is allowed


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ('context.namespace == "apps"', True),
        ('context.namespace == "other"', False),
        ('context.service_account == "deployer"', True),
        ('context.audiences.contains("https://api")', True),
        ('context.audiences == ["https://api"]', True),
        ("context.ttl == 7200", True),
        ("context.ttl < 7200", False),
        ('context.mechanism == "token_review"', True),
        ('principal.name == "kubernetes://prod/ci/runner"', True),
        ('principal is ServiceAccount && principal.cluster == "prod" && principal.namespace == "ci"', True),
        ('principal is ServiceAccount && principal.service_account == "runner"', True),
        ("principal is Admin", False),
        ('resource.config == Config::"configs/default"', True),
        ('resource == Role::"roles/ci"', True),
        ('resource.allowed_namespaces == ["apps"] && resource.allowed_service_accounts.contains("deployer")', True),
        ('resource.allowed_audiences.containsAny(["https://api"])', True),
    ],
)
def test_a_policy_sees_the_values_of_the_grant(condition: str, allowed: bool) -> None:
    """For IssueToken a policy sees what would be granted, defaults and caps applied, and who asks of what role."""
    policy = '@id("x") permit(principal, action == Action::"IssueToken", resource) when { CONDITION };'
    assert _issue(policy.replace("CONDITION", condition), ttl=timedelta(hours=9)).allowed is allowed


@pytest.mark.parametrize("action", ["CreateRole", "UpdateRole"])
@pytest.mark.parametrize(("namespaces", "allowed"), [(("team-a",), True), (("team-a", "prod"), False)])
def test_a_policy_sees_a_role_as_it_would_be(action: str, namespaces: tuple[str, ...], allowed: bool) -> None:
    """A team can be held to its own namespace, in a role that it makes and in one that it changes."""
    policy = AccessPolicy(
        '@id("own") permit(principal, action in [Action::"CreateRole", Action::"UpdateRole"], resource) when '
        '{ context.proposed.allowed_namespaces == ["team-a"] && '
        'context.proposed.hasTag("team") && context.proposed.getTag("team") == "a" };'
    )
    proposed = role(allowed_namespaces=namespaces, labels=(("team", "a"),))
    resource = proposed if action == "CreateRole" else role(allowed_namespaces=("prod",))
    assert policy.authorize(RUNNER, action, resource, Circumstances(NOW, proposed=proposed)).allowed is allowed


def test_an_update_is_held_to_the_old_role_too() -> None:
    """For UpdateRole `resource` is the role as it is, so that nobody takes over another team's role."""
    policy = AccessPolicy(
        '@id("own") permit(principal, action == Action::"UpdateRole", resource) when '
        '{ resource.allowed_namespaces == ["team-a"] && context.proposed.allowed_namespaces == ["team-a"] };'
    )
    mine, theirs = role(allowed_namespaces=("team-a",)), role(allowed_namespaces=("team-b",))
    allowed = {
        (old.allowed_namespaces[0], new.allowed_namespaces[0])
        for old in (mine, theirs)
        for new in (mine, theirs)
        if policy.authorize(RUNNER, "UpdateRole", old, Circumstances(NOW, proposed=new)).allowed
    }
    assert allowed == {("team-a", "team-a")}


_PAIR = Credential("client_certificate_files", certificate_file="/run/a/tls.crt", private_key_file="/run/a/tls.key")


@pytest.mark.parametrize("action", ["CreateConfig", "UpdateConfig"])
@pytest.mark.parametrize(
    ("condition", "proposed", "allowed"),
    [
        ('context.kubernetes_host == "https://10.0.0.1:6443"', config(), True),
        ('context.kubernetes_host == "https://10.0.0.1:6443"', config(kubernetes_host="https://evil.com"), False),
        ('context.kubernetes_host == ""', config(kubernetes_host=""), True),
        ('context.credential == "service_account_jwt"', config(), True),
        ('context.credential == "in_cluster"', config(credential=Credential("in_cluster")), True),
        ('context.credential == "token_file"', config(credential=_PAIR), False),
        ("context.credential_files.isEmpty()", config(), True),
        ('context.credential_files == ["/run/a/tls.crt", "/run/a/tls.key"]', config(credential=_PAIR), True),
        (
            'context.credential_files == ["/run/t"]',
            config(credential=Credential("token_file", token_file="/run/t")),
            True,
        ),
        ('context.kubernetes_ca_cert_sha256 == ""', config(), True),
        (
            f'context.kubernetes_ca_cert_sha256 == "{sha256(b"PEM").hexdigest()}"',
            config(kubernetes_ca_cert="PEM"),
            True,
        ),
        ('context.kubernetes_ca_cert_sha256 == ""', config(kubernetes_ca_cert="PEM"), False),
    ],
)
def test_a_policy_sees_a_config_as_it_would_be(action: str, condition: str, proposed: Config, allowed: bool) -> None:
    """A team can be held to a host, a kind of credential and its files, in a config that it makes and in one that it
    changes.
    """
    policy = AccessPolicy(
        '@id("own") permit(principal, action in [Action::"CreateConfig", Action::"UpdateConfig"], resource) when '
        f"{{ {condition} }};"
    )
    resource = proposed if action == "CreateConfig" else config(kubernetes_host="https://before")
    decision = policy.authorize(RUNNER, action, resource, Circumstances(NOW, proposed=proposed))
    assert decision == (Decision(True, ("own",)) if allowed else DENIED)


@pytest.mark.parametrize(
    ("condition", "current", "allowed"),
    [
        ('context.current_kubernetes_host == "https://10.0.0.1:6443"', config(), True),
        ('context.current_kubernetes_host == "https://10.0.0.1:6443"', config(kubernetes_host="https://b"), False),
        ('context.current_credential == "service_account_jwt"', config(), True),
        ('context.current_credential == "service_account_jwt"', config(credential=_PAIR), False),
        ("context.current_credential_files.isEmpty()", config(), True),
        ('context.current_credential_files == ["/run/a/tls.crt", "/run/a/tls.key"]', config(credential=_PAIR), True),
        ("context.current_credential_files.isEmpty()", config(credential=_PAIR), False),
    ],
)
def test_a_policy_sees_a_config_as_it_is(condition: str, current: Config, allowed: bool) -> None:
    """A team can be held to configs that have its own host, kind of credential or files now; a new config has none."""
    attribute = condition.split(".")[1].split(" ", maxsplit=1)[0]
    policy = AccessPolicy(
        '@id("own") permit(principal, action in [Action::"CreateConfig", Action::"UpdateConfig"], resource) when '
        f"{{ context has {attribute} && {condition} }};"
    )
    asked_for = Circumstances(NOW, proposed=config(kubernetes_host="https://after"))
    decision = policy.authorize(RUNNER, "UpdateConfig", current, asked_for)
    assert decision == (Decision(True, ("own",)) if allowed else DENIED)
    assert policy.authorize(RUNNER, "CreateConfig", current, Circumstances(NOW, proposed=current)) == DENIED


@pytest.mark.parametrize("kind", ["Config", "Role"])
def test_a_team_cannot_label_itself_into_rights(kind: str) -> None:
    """A change is held to the labels that are there, and to those that there would be: a team neither takes what is
    another's, nor gives what it has another label than its own.
    """
    makes: Callable[..., Config | Role] = config if kind == "Config" else role
    both = '{0}.hasTag("team") && {0}.getTag("team") == "a"'
    policy = AccessPolicy(
        f'@id("own") permit(principal, action == Action::"Update{kind}", resource) when '
        f"{{ {both.format('resource')} && {both.format('context.proposed')} }};"
    )
    teams = ("a", "b", "")
    made = {team: makes(labels=(("team", team),) if team else ()) for team in teams}
    allowed = {
        (old, new)
        for old in teams
        for new in teams
        if policy.authorize(RUNNER, f"Update{kind}", made[old], Circumstances(NOW, proposed=made[new])).allowed
    }
    assert allowed == {("a", "a")}


def test_a_policy_sees_what_a_role_puts_on_objects() -> None:
    """Labels and annotations that a role would put on what is made for its leases can be held to something."""
    policy = AccessPolicy(
        '@id("x") permit(principal, action == Action::"CreateRole", resource) when '
        '{ context.proposed.extra_labels == ["a=b", "c=d"] && context.proposed.extra_annotations.contains("e/f=g h") };'
    )
    proposed = role(extra_labels=(("a", "b"), ("c", "d")), extra_annotations=(("e/f", "g h"),))
    assert policy.authorize(RUNNER, "CreateRole", proposed, Circumstances(NOW, proposed=proposed)).allowed
    assert not policy.authorize(RUNNER, "CreateRole", role(), Circumstances(NOW, proposed=role())).allowed


@pytest.mark.parametrize("action", ["GetLease", "RevokeLease"])
def test_a_lease_has_the_labels_of_its_role(action: str) -> None:
    """A team sees and ends the leases of its roles, as these are labelled now, and what is remembered does not outlive
    another label.
    """
    policy = AccessPolicy(
        f'@id("mine") permit(principal, action == Action::"{action}", resource) when '
        '{ resource.hasTag("team") && resource.getTag("team") == "payments" };'
    )
    labels = ((("team", "payments"),), (("team", "web"),), (), (("team", "payments"),))
    answers = [
        policy.authorize(RUNNER, action, lease(), Circumstances(NOW, role_labels=each)).allowed for each in labels
    ]
    assert answers == [True, False, False, True]


def test_a_policy_can_keep_leases_to_their_callers() -> None:
    """A lease's attributes let a policy say that everyone sees their own."""
    policy = AccessPolicy(
        '@id("own") permit(principal, action == Action::"GetLease", resource) when '
        "{ resource.caller == principal.name };"
    )
    assert policy.authorize(RUNNER, "GetLease", lease(), Circumstances(NOW)).allowed
    other = service_account("other", "ci", "runner")
    assert policy.authorize(other, "GetLease", lease(), Circumstances(NOW)) == DENIED


def test_a_changed_resource_is_looked_at_anew() -> None:
    """What a policy remembers of a role does not outlive a change of the role."""
    policy = AccessPolicy(
        '@id("mine") permit(principal, action == Action::"GetRole", resource) when '
        '{ resource.hasTag("team") && resource.getTag("team") == "payments" };'
    )
    before, after = role(), role(labels=(("team", "web"),))
    answers = [policy.authorize(RUNNER, "GetRole", r, Circumstances(NOW)).allowed for r in (before, after, before)]
    assert answers == [True, False, True]


@pytest.mark.parametrize("field", ["role", "config", "caller", "namespace", "service_account"])
def test_leases_that_differ_are_told_apart(field: str) -> None:
    """What a policy remembers of a lease holds for those alone that have in common what it may ask about."""
    one, other = lease(1), lease(2, **{field: "other"})
    policy = AccessPolicy(
        f'@id("p") permit(principal, action == Action::"GetLease", resource) when {{ resource.{field} == "other" }};'
    )
    answers = [policy.authorize(RUNNER, "GetLease", each, Circumstances(NOW)).allowed for each in (one, other, one)]
    assert answers == [False, True, False]


@pytest.mark.parametrize(
    "policies",
    [
        '@id("p") permit(principal, action, resource == {name});',
        '@id("p") permit(principal, action, resource in {name});',
        '@id("p") permit(principal, action == Action::"GetLease", resource) when {{ [{name}].contains(resource) }};',
        f'{PERMIT_ALL} @id("q") forbid(principal, action, resource) when {{{{ resource != {{name}} }}}};',
    ],
)
def test_a_policy_can_name_a_lease(policies: str) -> None:
    """A policy about one lease holds for that one, and for no other that is like it."""
    one, other = lease(1), lease(2)
    policy = AccessPolicy(policies.format(name=f'Lease::"{one.name}"'))
    answers = [policy.authorize(RUNNER, "GetLease", each, Circumstances(NOW)).allowed for each in (one, other, one)]
    assert answers == [True, False, True]


@pytest.mark.parametrize(
    ("action", "resource"),
    [("GetRole", Server()), ("StealToken", role()), ("IssueToken", role()), ("ListRoles", Config("configs/x"))],
)
def test_a_question_that_does_not_fit_the_schema_is_denied(action: str, resource: Resource) -> None:
    """An unknown action, another kind of resource or a missing part of the context denies although all is permitted."""
    decision = AccessPolicy(PERMIT_ALL).authorize(RUNNER, action, resource, Circumstances(NOW))
    assert not decision.allowed
    assert decision.errors

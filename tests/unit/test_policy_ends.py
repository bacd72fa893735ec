"""The typed rules of roles that make credentials, that allow namespaces by label, and whose leases can be ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.errors import InvalidArgument, KubevendError, PermissionDenied, Unavailable, Violation
from kubevend_server.policy.limits import MINIMUM_LEASE, MINIMUM_TTL
from kubevend_server.policy.made import MadeAccount
from kubevend_server.policy.role_rules import check_role
from kubevend_server.policy.selectors import fits
from kubevend_server.policy.terms import Terms, terms
from kubevend_server.roles import GeneratedRole, KubernetesRole, LabelSelector, Requirement, Role
from tests.unit.builders import NAMING, asked, limits, role

RULES = '[{apiGroups: [""], resources: [pods], verbs: [get]}]'
WRITTEN = '[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]'
VIEW = KubernetesRole("ClusterRole", "view")
PAYMENTS = LabelSelector((("team", "payments"),), (Requirement("env", "NOT_IN", ("prod",)),))
NAME = f"kubevend-ci-prod-ci-runner-{NAMING.lease[-16:]}"


class Known:
    """Namespaces of which all is known, or nothing."""

    def __init__(self, namespaces: Mapping[str, Mapping[str, str]] | None) -> None:
        """Take the labels of each, or None for nothing."""
        self.namespaces = namespaces

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels."""
        if self.namespaces is None:
            raise Unavailable("NAMESPACES_UNKNOWN", "Nothing is known.")
        return self.namespaces.get(namespace)


def making(**overrides: Any) -> Role:
    """A role that makes a ServiceAccount for each lease, bound to ClusterRole view."""
    made = role(allowed_service_accounts=(), kubernetes_role=VIEW, revocation="PER_LEASE")
    return replace(made, **overrides)


def selecting(**overrides: Any) -> Role:
    """A role that allows one namespace by name, and others by their labels."""
    return role(**{"allowed_namespace_selector": PAYMENTS, **overrides})


def refusal(of: Role, known: Known | None = None, **request: Any) -> KubevendError:
    """How a request is refused."""
    with pytest.raises(KubevendError) as refused:
        terms(of, asked(**request), limits(), NAMING, known)
    return refused.value


def test_an_account_is_made_to_be_bound_to_what_is_there() -> None:
    """A role with a ClusterRole gives a made ServiceAccount of its own name, bound to that ClusterRole."""
    found = terms(making(extra_labels=(("a", "b"),), extra_annotations=(("c", "d"),)), asked(), limits(), NAMING)

    assert found.service_account == NAME
    assert found.account == MadeAccount("ClusterRole", "view", "", False, (("a", "b"),), (("c", "d"),))
    assert found.rules[1] == "service_account_name: made for this lease by roles/ci"


def test_an_account_is_made_with_its_rules() -> None:
    """A role with rules gives a made ServiceAccount, bound to a made Role of the same name with these rules."""
    found = terms(making(kubernetes_role=None, generated_role=GeneratedRole("Role", RULES)), asked(), limits(), NAMING)

    assert found.account == MadeAccount("Role", NAME, WRITTEN, False, (), ())


def test_a_made_account_cannot_be_chosen() -> None:
    """Who names a ServiceAccount where the role makes one is told to leave it out."""
    refused = refusal(making(), service_account="default")

    assert isinstance(refused, InvalidArgument)
    assert (refused.reason, refused.violations) == (
        "SERVICE_ACCOUNT_GENERATED",
        (Violation("service_account_name", "left out, since roles/ci makes one"),),
    )


def test_rights_everywhere_are_asked_for_and_allowed() -> None:
    """A ClusterRoleBinding is made only where the request asks for it, of a role that allows it."""
    allowing = making(cluster_wide_allowed=True)

    wide, narrow = (terms(allowing, asked(cluster_wide=wide), limits(), NAMING).account for wide in (True, False))

    assert (wide and wide.cluster_wide, narrow and narrow.cluster_wide) == (True, False)
    for of in (making(), role()):
        refused = refusal(of, cluster_wide=True)
        assert isinstance(refused, PermissionDenied)
        assert refused.reason == "CLUSTER_WIDE_NOT_ALLOWED"


@pytest.mark.parametrize("revocation", ["NONE", "PER_CALLER", "PER_ROLE"])
def test_kubernetes_floor_holds_where_leases_end_with_their_tokens(revocation: Any) -> None:
    """A lease under 600 s is for roles alone whose leases kubevend ends one by one."""
    refused = refusal(role(revocation=revocation, ttl=None), ttl=timedelta(seconds=599))

    assert (refused.reason, refused.metadata["minimum"]) == ("TTL_TOO_SHORT", "600s")
    assert "PER_LEASE" in refused.message


def test_a_lease_may_be_shorter_than_its_token() -> None:
    """A PER_LEASE lease lives 30 s and more; its token is asked for with Kubernetes' floor."""
    of = role(revocation="PER_LEASE", ttl=None)

    found = terms(of, asked(ttl=timedelta(seconds=30)), limits(), NAMING)
    long = terms(of, asked(ttl=timedelta(seconds=900)), limits(), NAMING)
    refused = refusal(of, ttl=timedelta(seconds=29))

    assert (found.ttl, found.token_ttl) == (MINIMUM_LEASE, MINIMUM_TTL)
    assert (long.ttl, long.token_ttl) == (timedelta(seconds=900), timedelta(seconds=900))
    assert (refused.reason, refused.metadata["minimum"]) == ("TTL_TOO_SHORT", "30s")


NAMESPACES = Known(
    {
        "web": {"team": "payments", "env": "dev"},
        "shop": {"team": "payments"},
        "live": {"team": "payments", "env": "prod"},
        "other": {"team": "search"},
    }
)


@pytest.mark.parametrize("namespace", ["web", "shop"])
def test_labels_allow_a_namespace(namespace: str) -> None:
    """A namespace whose labels fit is allowed, and the rule says by what."""
    found = terms(selecting(), asked(namespace=namespace), limits(), NAMING, NAMESPACES)

    assert found.namespace == namespace
    assert found.rules[0] == "namespace: asked, and its labels fit allowed_namespace_selector of roles/ci"


def test_a_name_needs_no_labels() -> None:
    """What is allowed by name is so whatever its labels, and while nothing is known of any."""
    found = terms(selecting(), asked(namespace="apps"), limits(), NAMING, Known(None))

    assert found.rules[0] == "namespace: asked, and in allowed_namespaces of roles/ci"


@pytest.mark.parametrize("namespace", ["live", "other", "missing"])
def test_other_namespaces_are_refused_alike(namespace: str) -> None:
    """A namespace with other labels and one that is not there are refused in the same words."""
    refused = refusal(selecting(), NAMESPACES, namespace=namespace)

    assert refused.reason == "NAMESPACE_NOT_ALLOWED"
    assert refused.message == (
        f"roles/ci does not allow namespace '{namespace}'; it allows apps, those whose labels fit its "
        "allowed_namespace_selector. Ask for one of those, or have allowed_namespaces of roles/ci extended."
    )


@pytest.mark.parametrize("known", [Known(None), None])
def test_what_is_not_known_is_refused(known: Known | None) -> None:
    """What rests on labels that nobody knows is refused, and may be tried again."""
    refused = refusal(selecting(), known, namespace="web")

    assert isinstance(refused, Unavailable)
    assert refused.reason == "NAMESPACES_UNKNOWN"


def test_a_selector_leaves_the_namespace_open() -> None:
    """A role that names one namespace and selects others does not decide for one."""
    refused = refusal(selecting(), NAMESPACES)

    assert (refused.reason, refused.metadata["allowed"]) == (
        "NAMESPACE_REQUIRED",
        "apps, those whose labels fit its allowed_namespace_selector",
    )


_LABELS = st.dictionaries(st.sampled_from(["team", "env"]), st.sampled_from(["a", "b"]))
_REQUIREMENTS = st.builds(
    Requirement, st.sampled_from(["team", "env"]), st.sampled_from(["IN", "NOT_IN"]), st.just(("a",))
)
_SELECTORS = st.builds(
    LabelSelector, _LABELS.map(lambda labels: tuple(labels.items())), st.lists(_REQUIREMENTS).map(tuple)
)
_ROLES = st.builds(
    making,
    allowed_namespaces=st.lists(st.sampled_from(["x", "y", "z"]), unique=True).map(tuple),
    allowed_namespace_selector=st.none() | _SELECTORS,
    cluster_wide_allowed=st.booleans(),
    ttl=st.none() | st.integers(30, 5000).map(lambda count: timedelta(seconds=count)),
    max_ttl=st.none() | st.integers(30, 5000).map(lambda count: timedelta(seconds=count)),
)
_ASKED = st.builds(
    asked,
    namespace=st.sampled_from(["", "x", "y", "z", "w"]),
    cluster_wide=st.booleans(),
    ttl=st.none() | st.integers(1, 90_000).map(lambda count: timedelta(seconds=count)),
)


@given(_ROLES, _ASKED, st.dictionaries(st.sampled_from(["x", "y", "z"]), _LABELS))
def test_terms_are_never_wider_than_a_role_that_makes_accounts(
    of: Role, request: Any, namespaces: dict[str, dict[str, str]]
) -> None:
    """Namespace, rights everywhere and TTL are never beyond the role; the account is bound to what the role says."""
    try:
        found: Terms | None = terms(of, request, limits(), NAMING, Known(namespaces))
    except KubevendError:
        return
    assert found is not None
    selector = of.allowed_namespace_selector
    selected = selector is not None and fits(selector, namespaces.get(found.namespace, {"none": ""}))
    assert found.namespace in of.allowed_namespaces or (selected and found.namespace in namespaces)
    assert found.account is not None
    assert of.cluster_wide_allowed or not found.account.cluster_wide
    assert not found.account.cluster_wide or request.cluster_wide
    assert (found.account.kind, found.account.role_name) == ("ClusterRole", "view")
    assert MINIMUM_LEASE <= found.ttl <= min(of.max_ttl or timedelta.max, limits().max_ttl) or of.max_ttl == found.ttl
    assert found.token_ttl >= MINIMUM_TTL


WAYS = "it has exactly one of allowed_service_accounts, kubernetes_role, generated_role; given is"


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"kubernetes_role": None}, "role", f"{WAYS} none of them"),
        ({"allowed_service_accounts": ("a",)}, "role", f"{WAYS} allowed_service_accounts and kubernetes_role"),
        ({"revocation": "NONE"}, "role.revocation", "PER_LEASE or left out"),
        ({"revocation": "PER_ROLE"}, "role.revocation", "PER_LEASE or left out"),
        (
            {"kubernetes_role": KubernetesRole("Role", "x"), "cluster_wide_allowed": True},
            "role.cluster_wide_allowed",
            "only with a ClusterRole",
        ),
        (
            {"kubernetes_role": None, "generated_role": GeneratedRole("Role", "[{verbs: [get]}]")},
            "role.generated_role.rules",
            "",
        ),
        ({"name_template": "x-{random}"}, "role.name_template", ""),
        ({"extra_labels": (("kubevend.dev/x", ""),)}, "role.extra_labels", ""),
        ({"extra_annotations": (("a b", ""),)}, "role.extra_annotations", ""),
        ({"ttl": timedelta(seconds=29)}, "role.ttl", "29s is less than 30s, the floor of a lease"),
        ({"allowed_namespaces": ()}, "role.allowed_namespaces", "what is left empty allows nothing"),
        (
            {"allowed_namespace_selector": LabelSelector((), (Requirement("a", "IN"),))},
            "role.allowed_namespace_selector",
            "",
        ),
    ],
)
def test_a_role_that_cannot_be_is_refused(overrides: dict[str, Any], field: str, words: str) -> None:
    """Each rule that a role breaks which makes accounts or selects namespaces is named with its field."""
    with pytest.raises(InvalidArgument) as refused:
        check_role(making(**overrides), limits())

    (fault,) = refused.value.violations
    assert fault.field == field
    assert words in fault.description


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster_wide_allowed", True),
        ("name_template", "kubevend-{random}"),
        ("extra_labels", (("a", "b"),)),
        ("extra_annotations", (("a", "b"),)),
    ],
)
def test_what_is_for_made_accounts_is_for_them_alone(field: str, value: Any) -> None:
    """What only counts for made accounts is refused in other roles, where it would say nothing."""
    with pytest.raises(InvalidArgument) as refused:
        check_role(role(**{field: value}), limits())

    assert [fault.field for fault in refused.value.violations] == [f"role.{field}"]

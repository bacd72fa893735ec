from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import assume, given
from hypothesis import strategies as st

from kubevend_server.errors import FailedPrecondition, InvalidArgument, KubevendError, PermissionDenied, Violation
from kubevend_server.policy.lifetimes import check_min_ttl, seconds, shortened
from kubevend_server.policy.limits import MINIMUM_TTL, Limits
from kubevend_server.policy.role_rules import check_role
from kubevend_server.policy.terms import Asked, Terms, terms
from kubevend_server.roles import Role
from kubevend_server.warning import Warning
from tests.unit.builders import NAMING, asked, limits, role

HOUR = timedelta(hours=1)

_NAMES = st.sampled_from(["a", "b", "c"])
_AUDIENCES = st.sampled_from(["api", "vault", "kubevend"])
_TTLS = st.one_of(st.none(), st.integers(1, 200_000).map(lambda s: timedelta(seconds=s)))
_SOUND_TTLS = st.one_of(st.none(), st.integers(600, 200_000).map(lambda s: timedelta(seconds=s)))


def _some(of: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, min_size=least, max_size=3, unique=True).map(tuple)


def _allowed(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.one_of(st.just(("*",)), _some(of, 1), _some(of))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Role, Asked]:
    """A role, and a request that keeps within it, or goes beyond it in one way or in any."""
    audiences = draw(st.one_of(_some(st.sampled_from(["api", "vault"]), 1), _some(_AUDIENCES, 1)))
    within = st.lists(st.sampled_from(audiences), max_size=3, unique=True).map(tuple)
    beyond = draw(st.sampled_from(["", "", "", "names", "audiences", "ttl", "all"]))
    ttls = _TTLS if beyond in ("ttl", "all") else _SOUND_TTLS
    of = Role(
        name="roles/any",
        allowed_namespaces=draw(_allowed(_NAMES)),
        allowed_service_accounts=draw(_allowed(_NAMES)),
        allowed_audiences=audiences,
        default_audiences=draw(_some(_AUDIENCES) if beyond == "all" else within),
        ttl=draw(ttls),
        max_ttl=draw(ttls),
    )

    def name(allowed: tuple[str, ...]) -> str:
        kept = _NAMES if allowed == ("*",) else st.sampled_from(allowed) if allowed else st.just("")
        open_ = st.just("") if len(allowed) == 1 and allowed != ("*",) else kept
        return draw(st.one_of(st.just(""), _NAMES) if beyond in ("names", "all") else st.one_of(kept, open_))

    return of, Asked(
        namespace=name(of.allowed_namespaces),
        service_account=name(of.allowed_service_accounts),
        audiences=draw(_some(_AUDIENCES) if beyond in ("audiences", "all") else within),
        ttl=draw(ttls),
        min_ttl=draw(_TTLS) if beyond in ("ttl", "all") else None,
    )


ANY_LIMITS = st.builds(
    Limits,
    default_ttl=st.integers(600, 100_000).map(lambda s: timedelta(seconds=s)),
    max_ttl=st.integers(600, 100_000).map(lambda s: timedelta(seconds=s)),
    reserved_audiences=st.just(frozenset({"kubevend"})),
)


def _outcome(case: tuple[Role, Asked], server: Limits) -> Terms | KubevendError:
    try:
        return terms(*case, server, NAMING)
    except KubevendError as refusal:
        return refusal


def _granted(case: tuple[Role, Asked], server: Limits) -> Terms:
    got = _outcome(case, server)
    assume(isinstance(got, Terms))
    assert isinstance(got, Terms)
    return got


def _acceptable(of: Role, server: Limits) -> bool:
    try:
        check_role(of, server)
    except InvalidArgument:
        return False
    return True


@given(requests(), ANY_LIMITS)
def test_terms_are_never_wider_than_the_role(case: tuple[Role, Asked], server: Limits) -> None:
    """Whatever is asked through whatever role, the namespace, the ServiceAccount and the audiences are among
    those that the role allows, and kubevend's own audience is never one.
    """
    of, _ = case
    got = _granted(case, server)
    assert got.namespace in of.allowed_namespaces or of.allowed_namespaces == ("*",)
    assert got.service_account in of.allowed_service_accounts or of.allowed_service_accounts == ("*",)
    assert got.audiences
    assert set(got.audiences) <= set(of.allowed_audiences) - server.reserved_audiences
    assert (got.role, got.config) == (of.name, of.config)


@given(requests(), ANY_LIMITS)
def test_a_ttl_keeps_every_bound(case: tuple[Role, Asked], server: Limits) -> None:
    """A TTL is at most the role's max_ttl and the server's, at most what was asked, and at least 600 s and min_ttl,
    for every role that can be written.
    """
    of, request = case
    assume(_acceptable(of, server))
    got = _granted(case, server)
    assert MINIMUM_TTL <= got.ttl <= server.max_ttl
    assert of.max_ttl is None or got.ttl <= of.max_ttl
    assert request.ttl is None or got.ttl <= request.ttl
    assert request.min_ttl is None or got.ttl >= request.min_ttl


@given(requests(), ANY_LIMITS)
def test_every_cap_leaves_a_warning(case: tuple[Role, Asked], server: Limits) -> None:
    """The warnings lead from the TTL that was wanted, cap by cap, to the one that is granted, and no warning comes
    without a cap.
    """
    of, request = case
    got = _granted(case, server)
    ttl = request.ttl or of.ttl or server.default_ttl
    for warning in got.warnings:
        facts = dict(warning.metadata)
        assert facts["from"] == seconds(ttl)
        ttl = timedelta(seconds=int(facts["to"].removesuffix("s")))
        assert (warning.reason, facts["by"], ttl) in (
            ("TTL_CAPPED_BY_ROLE", f"max_ttl of {of.name}", of.max_ttl),
            ("TTL_CAPPED_BY_SERVER", "the server's max_ttl", server.max_ttl),
        )
    assert ttl == got.ttl


@given(requests(), ANY_LIMITS)
def test_a_refusal_is_one_of_ours(case: tuple[Role, Asked], server: Limits) -> None:
    """What cannot be had is refused with a status of the request's or the role's, never with another exception."""
    got = _outcome(case, server)
    assert isinstance(got, Terms | InvalidArgument | PermissionDenied | FailedPrecondition)


def test_any_account_is_none_that_was_made_for_a_lease() -> None:
    """Where a role allows any ServiceAccount, those of others' leases are not meant; one that it names is."""
    made = "kubevend-admin-ci-0123456789abcdef"
    with pytest.raises(PermissionDenied) as refusal:
        terms(role(allowed_service_accounts=("*",)), asked(service_account=made), limits(), NAMING)
    named = terms(role(allowed_service_accounts=(made,)), asked(), limits(), NAMING)

    assert refusal.value.reason == "SERVICE_ACCOUNT_NOT_ALLOWED"
    assert named.service_account == made


def test_a_role_decides_what_is_left_open() -> None:
    """A request that names nothing gets the role's only namespace, ServiceAccount and audience and its ttl, and the
    rules say so.
    """
    assert terms(role(), asked(), limits(), NAMING) == Terms(
        config="configs/default",
        role="roles/ci",
        namespace="apps",
        service_account="deployer",
        audiences=("https://api",),
        ttl=HOUR,
        min_ttl=None,
        rules=(
            "namespace: the only one that roles/ci allows",
            "service_account_name: the only one that roles/ci allows",
            "audiences: the only one that roles/ci allows",
            "ttl: of roles/ci",
        ),
        warnings=(),
    )


def test_a_request_decides_within_the_role() -> None:
    """A request that names everything gets exactly that where the role allows it."""
    wide = role(
        allowed_namespaces=("*",), allowed_service_accounts=("a", "b"), allowed_audiences=("one", "two", "three")
    )
    request = Asked("tools", "b", ("three", "one"), timedelta(minutes=20), timedelta(minutes=10))
    assert terms(wide, request, limits(), NAMING) == Terms(
        config="configs/default",
        role="roles/ci",
        namespace="tools",
        service_account="b",
        audiences=("three", "one"),
        ttl=timedelta(minutes=20),
        min_ttl=timedelta(minutes=10),
        rules=(
            "namespace: asked, and in allowed_namespaces of roles/ci",
            "service_account_name: asked, and in allowed_service_accounts of roles/ci",
            "audiences: asked, and in allowed_audiences of roles/ci",
            "ttl: asked",
        ),
        warnings=(),
    )


def test_default_audiences_come_before_the_only_one() -> None:
    """A request without audiences gets the role's default_audiences where there are any."""
    got = terms(role(allowed_audiences=("a", "b", "c"), default_audiences=("c", "a")), asked(), limits(), NAMING)
    assert (got.audiences, got.rules[2]) == (("c", "a"), "audiences: default_audiences of roles/ci")


def test_the_server_decides_where_nobody_names_a_ttl() -> None:
    """Without a TTL in request and role the server's default_ttl holds."""
    got = terms(role(ttl=None), asked(), limits(), NAMING)
    assert (got.ttl, got.rules[3:]) == (timedelta(minutes=30), ("ttl: the server's default_ttl",))


def test_two_caps_are_both_named() -> None:
    """A TTL that the role and then the server shorten comes with a warning and a rule for each."""
    got = terms(role(max_ttl=2 * HOUR), asked(ttl=3 * HOUR), limits(max_ttl=HOUR), NAMING)
    assert (got.ttl, got.rules[3:], got.warnings) == (
        HOUR,
        (
            "ttl: asked",
            "ttl: shortened from 10800s to 7200s by max_ttl of roles/ci",
            "ttl: shortened from 7200s to 3600s by the server's max_ttl",
        ),
        (
            Warning(
                "TTL_CAPPED_BY_ROLE",
                "The TTL was shortened from 10800s to 7200s by max_ttl of roles/ci.",
                (("by", "max_ttl of roles/ci"), ("from", "10800s"), ("to", "7200s")),
            ),
            Warning(
                "TTL_CAPPED_BY_SERVER",
                "The TTL was shortened from 7200s to 3600s by the server's max_ttl.",
                (("by", "the server's max_ttl"), ("from", "7200s"), ("to", "3600s")),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("of", "request_", "error", "reason", "violations"),
    [
        (
            {"allowed_namespaces": ("a", "b")},
            {},
            InvalidArgument,
            "NAMESPACE_REQUIRED",
            (Violation("namespace", "required, since roles/ci does not allow exactly one"),),
        ),
        (
            {"allowed_namespaces": ("*",)},
            {},
            InvalidArgument,
            "NAMESPACE_REQUIRED",
            (Violation("namespace", "required, since roles/ci does not allow exactly one"),),
        ),
        ({"allowed_namespaces": ()}, {"namespace": "a"}, PermissionDenied, "NAMESPACE_NOT_ALLOWED", ()),
        ({}, {"namespace": "other"}, PermissionDenied, "NAMESPACE_NOT_ALLOWED", ()),
        (
            {"allowed_service_accounts": ("*",)},
            {},
            InvalidArgument,
            "SERVICE_ACCOUNT_REQUIRED",
            (Violation("service_account_name", "required, since roles/ci does not allow exactly one"),),
        ),
        ({}, {"service_account": "other"}, PermissionDenied, "SERVICE_ACCOUNT_NOT_ALLOWED", ()),
        (
            {"allowed_audiences": ("a", "b")},
            {},
            InvalidArgument,
            "AUDIENCE_REQUIRED",
            (Violation("audiences", "required, since roles/ci has no default"),),
        ),
        ({}, {"audiences": ("https://api", "other")}, PermissionDenied, "AUDIENCE_NOT_ALLOWED", ()),
        ({}, {"audiences": ("*",)}, PermissionDenied, "AUDIENCE_NOT_ALLOWED", ()),
        (
            {"allowed_audiences": ("kubevend",)},
            {"audiences": ("kubevend",)},
            PermissionDenied,
            "AUDIENCE_NOT_ALLOWED",
            (),
        ),
        ({"allowed_audiences": ("kubevend",)}, {}, PermissionDenied, "AUDIENCE_NOT_ALLOWED", ()),
        (
            {},
            {"ttl": timedelta(seconds=599)},
            InvalidArgument,
            "TTL_TOO_SHORT",
            (Violation("ttl", "at least 600s"),),
        ),
        (
            {},
            {"ttl": HOUR, "min_ttl": 2 * HOUR},
            InvalidArgument,
            "MIN_TTL_ABOVE_TTL",
            (Violation("min_ttl", "at most ttl"),),
        ),
        ({}, {"min_ttl": 2 * HOUR}, FailedPrecondition, "MIN_TTL_NOT_MET", ()),
        ({}, {"ttl": 4 * HOUR, "min_ttl": 3 * HOUR}, FailedPrecondition, "MIN_TTL_NOT_MET", ()),
    ],
)
def test_what_a_role_does_not_allow_is_refused(
    of: dict[str, Any],
    request_: dict[str, Any],
    error: type[KubevendError],
    reason: str,
    violations: tuple[Violation, ...],
) -> None:
    """A request beyond the role, or one that leaves open what the role leaves open, is refused with its reason."""
    with pytest.raises(error) as refusal:
        terms(role(**of), asked(**request_), limits(), NAMING)
    assert (type(refusal.value), refusal.value.reason, refusal.value.violations) == (error, reason, violations)


def test_a_refused_name_tells_the_allowed_ones() -> None:
    """The refusal of a namespace says what was asked and what is allowed, for people and for programs."""
    with pytest.raises(PermissionDenied) as refusal:
        terms(role(allowed_namespaces=("apps", "tools")), asked(namespace="prod"), limits(), NAMING)
    assert refusal.value.message == (
        "roles/ci does not allow namespace 'prod'; it allows apps, tools. Ask for one of those, or have "
        "allowed_namespaces of roles/ci extended."
    )
    assert refusal.value.metadata == {"role": "roles/ci", "namespace": "prod", "allowed": "apps, tools"}


def test_a_refused_audience_does_not_offer_the_reserved_one() -> None:
    """The refusal of kubevend's own audience lists the others that the role allows, without it."""
    with pytest.raises(PermissionDenied) as refusal:
        terms(role(allowed_audiences=("kubevend", "api")), asked(audiences=("kubevend",)), limits(), NAMING)
    assert refusal.value.metadata == {"role": "roles/ci", "audience": "kubevend", "allowed": "api"}


def test_an_unmet_min_ttl_names_who_shortened() -> None:
    """The refusal of a life that is too short says by whose cap it would have been."""
    with pytest.raises(FailedPrecondition) as refusal:
        terms(role(), asked(ttl=4 * HOUR, min_ttl=3 * HOUR), limits(), NAMING)
    assert refusal.value.message == (
        "min_ttl is 10800s, but the token would live 7200s only. The TTL was shortened from 14400s to 7200s by "
        "max_ttl of roles/ci. Ask for a min_ttl of 7200s or less, or have max_ttl of roles/ci raised."
    )
    assert refusal.value.metadata == {"min_ttl": "10800s", "ttl": "7200s", "subject": "min_ttl"}


@pytest.mark.parametrize(
    ("caps", "todo"),
    [
        ([("TTL_CAPPED_BY_ROLE", "max_ttl of roles/ci", 2)], "or have max_ttl of roles/ci raised."),
        (
            [("TTL_CAPPED_BY_SERVER", "the server's max_ttl", 2)],
            "or have the server's issuance.max_ttl_seconds raised.",
        ),
        (
            [("TTL_CAPPED_BY_ROLE", "max_ttl of roles/ci", 4), ("TTL_CAPPED_BY_SERVER", "the server's max_ttl", 2)],
            "or have the server's issuance.max_ttl_seconds raised.",
        ),
        (
            [
                ("TTL_CAPPED_BY_ROLE", "max_ttl of roles/ci", 2),
                ("TTL_CAPPED_BY_CLUSTER", "the cluster's maximum", 1),
            ],
            (
                "or have max_ttl of roles/ci and the cluster's maximum (--service-account-max-token-expiration of its "
                "API server) raised."
            ),
        ),
    ],
)
def test_an_unmet_min_ttl_says_what_to_raise(caps: list[tuple[str, str, int]], todo: str) -> None:
    """Every cap below min_ttl is named as it is set, and none that would have left enough."""
    warnings = [shortened(reason, by, 5 * HOUR, hours * HOUR) for reason, by, hours in caps]
    said = Warning("CLUSTER_WARNING", "The cluster warned: x")
    with pytest.raises(FailedPrecondition) as refusal:
        check_min_ttl(caps[-1][2] * HOUR, 3 * HOUR, [*warnings, said])
    assert refusal.value.message.endswith(f" or less, {todo}")


def test_an_unmet_min_ttl_that_nobody_shortened() -> None:
    """A life that is too short of itself is mended by asking for more, whatever else the cluster warns of."""
    with pytest.raises(FailedPrecondition, match=r"warned: x Ask for a longer ttl\.$"):
        check_min_ttl(HOUR, 2 * HOUR, [Warning("CLUSTER_WARNING", "The cluster warned: x")])


ALONE = " (and set default_audiences, or requests without audiences will have to name theirs)"


@pytest.mark.parametrize(
    ("of", "wanted", "todo"),
    [
        ({}, "x", f", or have allowed_audiences of roles/ci extended{ALONE}."),
        ({"default_audiences": ("https://api",)}, "x", ", or have allowed_audiences of roles/ci extended."),
        ({"allowed_audiences": ("a", "b")}, "x", ", or have allowed_audiences of roles/ci extended."),
        ({}, "kubevend", "."),
    ],
)
def test_a_refused_audience_says_what_extending_takes(of: dict[str, Any], wanted: str, todo: str) -> None:
    """Whoever extends a role's only audience is told what that takes from requests without any; kubevend's own
    audience is not to be had by extending.
    """
    with pytest.raises(PermissionDenied) as refusal:
        terms(role(**of), asked(audiences=(wanted,)), limits(), NAMING)
    assert refusal.value.message.endswith(f"Ask for one of those{todo}")


def test_min_ttl_is_met_by_exactly_itself() -> None:
    """A life of exactly min_ttl is enough, one second less is not."""
    check_min_ttl(HOUR, HOUR, ())
    with pytest.raises(FailedPrecondition):
        check_min_ttl(HOUR - timedelta(seconds=1), HOUR, ())


@given(st.integers(0, 10**8))
def test_a_duration_is_written_so_that_protobuf_reads_it(microseconds: int) -> None:
    """`seconds` writes what google.protobuf.Duration reads back as the same duration, tiny ones too."""
    duration = timedelta(microseconds=microseconds)
    read = Duration()
    read.FromJsonString(seconds(duration))
    assert read.ToTimedelta() == duration


def test_a_tiny_duration_is_written_without_an_exponent() -> None:
    """The 50 microseconds of a quick refusal are `0.00005s`, which proto JSON can read."""
    assert "e" not in seconds(timedelta(microseconds=50))

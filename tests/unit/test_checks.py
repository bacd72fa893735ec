from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml
from multidict import CIMultiDict

from kubevend_server.authentication.service_accounts import CallerCluster
from kubevend_server.checks import Checker
from kubevend_server.cluster.connection import Answer
from kubevend_server.cluster.credentials import Credential, Presented, Stored
from kubevend_server.errors import FailedPrecondition, KubevendError, ResourceExhausted, Unavailable
from kubevend_server.findings import Finding, Report
from kubevend_server.roles import Role
from tests.unit.builders import NOW, bearer, client_certificate, clock, config, limits, role
from tests.unit.fake_cluster import HOST, OWN, ApiClusters, FakeApi, FakeCluster, status

UNTIL = "2026-05-04T13:00:00+00:00"

REACHABLE = Finding("REACHABLE", "PASSED", f"{HOST} answers.")
TRUSTED = Finding("TRUSTED", "PASSED", "Its certificate is for that name, and vouched for by the system's authorities.")
KUBERNETES = Finding("KUBERNETES", "PASSED", "It is Kubernetes v1.37.0.")
CLOCK = Finding("CLOCK", "PASSED", "Its clock and kubevend's agree to within seconds.", metadata={"skew": "0"})
CREDENTIAL = Finding(
    "CREDENTIAL",
    "PASSED",
    f"The cluster accepts the stored token as {OWN}. It does not expire.",
    metadata={"identity": OWN},
)
TOLD = {"verb": "create", "resource": "serviceaccounts/token"}
PERMISSION = Finding(
    "PERMISSION",
    "PASSED",
    f"{OWN} may request tokens of deployer in namespace apps: a binding",
    "",
    "apps",
    "deployer",
    ("roles/ci",),
    {"identity": OWN, **TOLD},
)
SERVICE_ACCOUNT = Finding(
    "SERVICE_ACCOUNT", "PASSED", "ServiceAccount apps/deployer exists.", "", "apps", "deployer", ("roles/ci",)
)
GOOD = (REACHABLE, TRUSTED, KUBERNETES, CLOCK, CREDENTIAL, PERMISSION, SERVICE_ACCOUNT)


async def _check(
    api: FakeApi,
    *roles: Role,
    credential: Credential | None = None,
    callers: Iterable[CallerCluster] = (),
    unusable: KubevendError | None = None,
) -> Report:
    clusters = ApiClusters(api, credential)
    clusters.unusable = unusable
    report = await Checker(clusters, tuple(callers), limits(), clock).check(config(), roles)
    # Whoever came without a credential leaves no connection behind.
    assert all(stranger.retired for stranger in clusters.strangers)
    return report


def _found(report: Report, item: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.item == item]


def _states(report: Report) -> list[tuple[str, str]]:
    return [(finding.item, finding.state) for finding in report.findings]


def _error(reason: str) -> KubevendError:
    return FailedPrecondition(reason, f"{reason} and what to do.", metadata={"host": HOST})


async def test_a_cluster_where_all_is_well() -> None:
    """Everything passes in its order: how the cluster is reached, the credential, then the rights."""
    assert await _check(FakeApi(), role()) == Report(OWN, GOOD, "")
    assert (await _check(FakeApi(), role())).passed


async def test_nothing_is_minted() -> None:
    """Whether a ServiceAccount is there is asked for the lifetime of a second, which Kubernetes always refuses."""
    api = FakeApi()
    await _check(api, role())
    asked = [spec for kind, spec in api.asked if kind == "token"]
    assert asked == [{"audiences": ["kubevend-check"], "expirationSeconds": 1}]


async def test_without_roles_only_the_way_is_looked_at() -> None:
    """A config that no role uses needs no right."""
    assert await _check(FakeApi()) == Report(OWN, GOOD[:5], "")


# The first request.


GOT_SO_FAR = (
    ("REACHABLE", "It accepts connections."),
    ("TRUSTED", "It answers, with a certificate that is trusted."),
)
FAILS_AT = {
    "KUBERNETES_UNREACHABLE": 0,
    "CLUSTER_BUSY": 0,
    "KUBERNETES_UNTRUSTED": 1,
    "KUBERNETES_TLS_FAILED": 1,
    "CREDENTIAL_UNUSABLE": 1,
    "NOT_KUBERNETES": 2,
    "KUBERNETES_TIMED_OUT": 2,
    "KUBERNETES_CONNECTION_LOST": 2,
    "SOMETHING_NEW": 2,
}


def _failed_way(place: int, error: KubevendError) -> Report:
    first = ("REACHABLE", "TRUSTED", "KUBERNETES")
    return Report(
        "",
        (
            *(Finding(item, "PASSED", told) for item, told in GOT_SO_FAR[:place]),  # type: ignore[arg-type]
            Finding(first[place], "FAILED", error.message, error.reason, metadata=error.metadata),  # type: ignore[arg-type]
            *(
                Finding(item, "SKIPPED", f"Not looked at, since {first[place]} failed.")  # type: ignore[arg-type]
                for item in (*first[place + 1 :], "CLOCK", "CREDENTIAL")
            ),
            Finding(
                "PERMISSION",
                "SKIPPED",
                f"Not looked at, since {first[place]} failed.",
                "",
                "apps",
                "deployer",
                ("roles/ci",),
                TOLD,
            ),
        ),
        "",
    )


@pytest.mark.parametrize(("reason", "place"), FAILS_AT.items())
async def test_the_first_request_fails_at_its_item(reason: str, place: int) -> None:
    """What goes wrong on the way shows at its item: those before it passed, those after it are skipped, and nothing
    more is asked.
    """
    error = _error(reason)
    api = FakeApi(instead={"version": error})
    report = await _check(api, role())
    assert report == _failed_way(place, error)
    assert not report.passed
    assert [kind for kind, _ in api.asked] == ["version"]


async def test_a_config_that_cannot_be_used_fails_at_once() -> None:
    """A config that cannot even be connected, as one whose files the settings no longer allow, fails at the first
    item.
    """
    error = _error("CREDENTIAL_UNUSABLE")
    assert await _check(FakeApi(), role(), unusable=error) == _failed_way(0, error)


def _answer(code: int, body: bytes) -> Answer:
    return Answer(code, CIMultiDict(Date="Mon, 04 May 2026 12:00:00 GMT"), body)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_cluster_that_tells_strangers_nothing(code: int) -> None:
    """An API server without anonymous access is one all the same, if it refuses as such."""
    told = "It is Kubernetes of a version that it does not tell strangers."
    report = await _check(FakeApi(instead={"version": status(code)}))
    assert _found(report, "KUBERNETES") == [replace(KUBERNETES, message=told)]
    assert report.passed


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_answer(200, b"<html>"), "NOT_KUBERNETES"),
        (_answer(200, b"{}"), "NOT_KUBERNETES"),
        (_answer(200, b'{"gitVersion":5}'), "NOT_KUBERNETES"),
        (_answer(401, b"<html>"), "NOT_KUBERNETES"),
        (_answer(302, b""), "NOT_KUBERNETES"),
        (_answer(404, b"no"), "NOT_KUBERNETES"),
        (status(500), "KUBERNETES_UNAVAILABLE"),
        (status(429), "KUBERNETES_THROTTLED"),
        (status(504), "KUBERNETES_TIMED_OUT"),
    ],
)
async def test_an_answer_that_is_no_api_servers(answer: Answer, reason: str) -> None:
    """Whatever else answers fails as what is no API server, or as one that does not do well."""
    report = await _check(FakeApi(instead={"version": answer}))
    assert _states(report)[:3] == [("REACHABLE", "PASSED"), ("TRUSTED", "PASSED"), ("KUBERNETES", "FAILED")]
    assert [finding.reason for finding in _found(report, "KUBERNETES")] == [reason]


# The clock.


@pytest.mark.parametrize(
    ("date", "state", "skew", "way"),
    [
        ("Mon, 04 May 2026 12:00:05 GMT", "PASSED", "5", ""),
        ("Mon, 04 May 2026 11:59:56 GMT", "PASSED", "4", ""),
        ("Mon, 04 May 2026 14:00:00 +0200", "PASSED", "0", ""),
        ("Mon, 04 May 2026 12:00:06 GMT", "WARNING", "6", "6 s ahead of"),
        ("Mon, 04 May 2026 11:59:54 GMT", "WARNING", "6", "6 s behind"),
        ("Mon, 04 May 2020 12:00:00 GMT", "WARNING", "189302400", "189302400 s behind"),
    ],
)
async def test_a_clock_that_is_wrong_is_told(date: str, state: Any, skew: str, way: str) -> None:
    """A difference of more than five seconds is a warning that says which way, and fails nothing."""
    report = await _check(FakeApi(date=date))
    message = (
        f"Its clock is {way} kubevend's: leases and tokens end earlier or later than they say. Set both by NTP."
        if way
        else CLOCK.message
    )
    assert _found(report, "CLOCK") == [
        Finding("CLOCK", state, message, "CLOCK_SKEW" if way else "", metadata={"skew": skew})
    ]
    assert report.passed


@pytest.mark.parametrize(
    "date",
    [
        "",
        "soon",
        "Mon, 99 May 2026",
        "Mon, 04 May 10000 12:00:00 GMT",
        "Mon, 04 May 2026 12:00:00 +9999",
        pytest.param("Fri, 31 Dec 9999 23:59:59 -0100"),
        pytest.param("Mon, 04 May 99999999999999999999 12:00:00 GMT"),
    ],
)
async def test_a_clock_that_cannot_be_read_is_skipped(date: str) -> None:
    """Whatever stands where the time should be, the check goes on without it."""
    report = await _check(FakeApi(date=date))
    assert _found(report, "CLOCK") == [Finding("CLOCK", "SKIPPED", "The API server does not tell the time.")]


# The credential.


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(401), "KUBERNETES_UNAUTHORIZED"),
        (status(403, 'User "system:anonymous" cannot create resource'), "KUBERNETES_FORBIDDEN"),
        (status(404), "NOT_KUBERNETES"),
        (_answer(200, b"{}"), "NOT_KUBERNETES"),
        (Unavailable("KUBERNETES_TIMED_OUT", "Off."), "KUBERNETES_TIMED_OUT"),
    ],
)
async def test_a_credential_that_is_refused(answer: Answer | KubevendError, reason: str) -> None:
    """Where the cluster does not accept the credential, that is what failed; the rights are skipped, and no RBAC is
    proposed to nobody.
    """
    report = await _check(FakeApi(instead={"selfsubjectreviews": answer}), role())
    assert (report.identity, report.missing_rbac, report.passed) == ("", "", False)
    assert report.findings[:4] == GOOD[:4]
    (credential,) = _found(report, "CREDENTIAL")
    assert (credential.state, credential.reason) == ("FAILED", reason)
    assert report.findings[5:] == (
        Finding(
            "PERMISSION",
            "SKIPPED",
            "Not looked at, since CREDENTIAL failed.",
            "",
            "apps",
            "deployer",
            ("roles/ci",),
            TOLD,
        ),
    )


def _token(life: timedelta) -> Presented:
    return Presented(bearer(exp=int((NOW + life).timestamp())))


DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("credential", "state"),
    [
        (Stored("it", _token(31 * DAY)), "PASSED"),
        (Stored("it", _token(29 * DAY)), "WARNING"),
        (Stored("it", client_certificate(life=31 * DAY).presented), "PASSED"),
        (Stored("it", client_certificate(life=29 * DAY).presented), "WARNING"),
        (Stored("it", _token(6 * MINUTE), renewed=True), "PASSED"),
        (Stored("it", _token(4 * MINUTE), renewed=True), "WARNING"),
        (Stored("it", client_certificate(life=6 * MINUTE).presented, renewed=True), "PASSED"),
        (Stored("it", client_certificate(life=-MINUTE).presented, renewed=True), "WARNING"),
    ],
)
async def test_a_credential_that_ends_soon_is_told(credential: Credential, state: str) -> None:
    """What nobody renews is a warning thirty days before its end, what is kept fresh only where it was not, and each
    says what to do.
    """
    report = await _check(FakeApi(), credential=credential)
    expiry = credential.read().expiry()
    assert expiry is not None
    until = expiry.isoformat(timespec="seconds")
    metadata = {"identity": OWN, "expire_time": until}
    said = f"The cluster accepts it as {OWN}. It"
    todo = (
        "Whatever keeps its file fresh seems to have stopped."
        if credential.renewed
        else "Nothing renews it: give the config a new one before that (UpdateConfig), or a credential in files."
    )
    assert _found(report, "CREDENTIAL") == [
        Finding("CREDENTIAL", "PASSED", f"{said} is valid until {until}.", metadata=metadata)
        if state == "PASSED"
        else Finding(
            "CREDENTIAL", "WARNING", f"{said} expires at {until}. {todo}", "CREDENTIAL_EXPIRES", metadata=metadata
        )
    ]
    assert report.passed


async def test_a_cluster_that_knows_nobody_does_not_pass() -> None:
    """Where the cluster does not say as whom it knows kubevend, no right was looked at, and so nothing may pass."""
    assert not (await _check(FakeApi(identity=""), role())).passed


# The rights.


def _failed_permission(identity: str = OWN, **changes: Any) -> Finding:
    message = (
        f"{identity} may not request tokens of deployer in namespace apps, or the namespace does not exist (create on "
        "serviceaccounts/token)."
    )
    return replace(PERMISSION, state="FAILED", reason="KUBERNETES_FORBIDDEN", message=message, **changes)


async def test_a_missing_right_comes_with_its_rbac() -> None:
    """A right that is missing fails, its ServiceAccount is not looked for, and the RBAC grants it."""
    report = await _check(FakeApi(rights=set()), role())
    unknown = replace(SERVICE_ACCOUNT, state="SKIPPED", message="Not known without the right to request its tokens.")
    assert report.findings == (*GOOD[:5], _failed_permission(), unknown)
    assert not report.passed
    granted, binding = yaml.safe_load_all(report.missing_rbac)
    assert granted["metadata"] == {"name": "kubevend:default:kubevend:server", "namespace": "apps"}
    assert [rule["resourceNames"] for rule in granted["rules"]] == [["deployer"]]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "server", "namespace": "kubevend"}]


async def test_names_that_leave_one_out_are_told() -> None:
    """Where the right is there for others, the finding says for whom."""
    report = await _check(FakeApi(rights={("apps", "builder"), ("apps", "web")}), role())
    assert _found(report, "PERMISSION") == [
        replace(
            PERMISSION,
            state="FAILED",
            reason="KUBERNETES_RESOURCE_NAMES",
            message=(
                f"{OWN} may not request tokens of deployer in namespace apps, only of builder, web, which are in the "
                "resourceNames of its Role (create on serviceaccounts/token)."
            ),
        )
    ]


@pytest.mark.parametrize(
    ("rights", "namespaces", "accounts", "state"),
    [
        ({("*", "*")}, ("*",), ("*",), "PASSED"),
        ({("apps", "*")}, ("*",), ("*",), "FAILED"),
        ({("apps", "*")}, ("apps",), ("*",), "PASSED"),
        ({("apps", "deployer")}, ("apps",), ("*",), "FAILED"),
        ({("*", "deployer")}, ("*",), ("deployer",), "PASSED"),
        ({("*", "deployer")}, ("*",), ("*",), "FAILED"),
    ],
)
async def test_a_right_to_all_is_a_right_to_all(
    rights: set[tuple[str, str]], namespaces: tuple[str, ...], accounts: tuple[str, ...], state: str
) -> None:
    """What a role allows everywhere must be permitted everywhere; no single ServiceAccount is then looked for."""
    wide = role(allowed_namespaces=namespaces, allowed_service_accounts=accounts)
    report = await _check(FakeApi(rights=rights), wide)
    assert _states(report)[5:] == [("PERMISSION", state)]
    (found,) = _found(report, "PERMISSION")
    assert (found.namespace, found.service_account) == (namespaces[0], accounts[0])
    assert bool(report.missing_rbac) == (state == "FAILED")


async def test_what_is_missing_holds_all_of_its_namespace() -> None:
    """The RBAC of a namespace that lacks something has all the names that are needed there, those too that are there
    already, since it takes the place of what was; a namespace that lacks nothing is left out.
    """
    first = role(name="roles/a", allowed_namespaces=("apps", "web"), allowed_service_accounts=("one", "two"))
    second = role(name="roles/b", allowed_namespaces=("apps",), allowed_service_accounts=("three",))
    api = FakeApi(rights={("apps", "one"), ("apps", "two"), ("web", "one"), ("web", "two")})
    report = await _check(api, first, second)
    assert [(f.namespace, f.service_account) for f in _found(report, "PERMISSION") if f.state == "FAILED"] == [
        ("apps", "three")
    ]
    objects = list(yaml.safe_load_all(report.missing_rbac))
    assert [(each["kind"], each["metadata"]["namespace"]) for each in objects] == [
        ("Role", "apps"),
        ("RoleBinding", "apps"),
    ]
    assert objects[0]["rules"][0]["resourceNames"] == ["one", "three", "two"]


async def test_a_right_that_could_not_be_asked_for_is_not_missing() -> None:
    """Where the cluster did not answer, nobody knows that a right is missing, and no RBAC says so."""
    instead: dict[str, Answer | KubevendError] = {
        "selfsubjectaccessreviews": Unavailable("KUBERNETES_TIMED_OUT", "Off.")
    }
    report = await _check(FakeApi(instead=instead), role())
    assert _found(report, "PERMISSION") == [
        replace(PERMISSION, state="FAILED", reason="KUBERNETES_TIMED_OUT", message="Off.")
    ]
    assert report.missing_rbac == ""


async def test_a_service_account_that_is_not_there() -> None:
    """A ServiceAccount that is missing fails with the reason that an issuance would have, and needs no RBAC."""
    report = await _check(FakeApi(accounts=set()), role())
    (found,) = _found(report, "SERVICE_ACCOUNT")
    assert (found.state, found.reason) == ("FAILED", "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND")
    assert (found.namespace, found.service_account, found.roles) == ("apps", "deployer", ("roles/ci",))
    assert (report.passed, report.missing_rbac) == (False, "")


async def test_a_webhook_that_mints_anyway_is_a_warning() -> None:
    """Where a token was minted for a lifetime that Kubernetes refuses, that is told, and the token is not."""
    report = await _check(FakeApi(webhook=True), role())
    (found,) = _found(report, "SERVICE_ACCOUNT")
    assert (found.state, found.reason) == ("WARNING", "TOKEN_NOT_AS_GRANTED")
    assert report.passed
    assert "a token" not in repr(report).replace("minted a token", "")


async def test_at_most_500_pairs_are_looked_at() -> None:
    """Of more pairs than five hundred the rest is told to be left, a few are asked for at once, and in their order."""
    names = tuple(f"n{number:03d}" for number in range(100))
    roles = [
        role(name=f"roles/r{n}", allowed_namespaces=(f"ns{n:02d}",), allowed_service_accounts=names) for n in range(6)
    ]
    api = FakeApi(rights=set())
    report = await _check(api, *roles)
    permissions = _found(report, "PERMISSION")
    assert len(permissions) == 501
    assert [(f.namespace, f.service_account) for f in permissions[:-1]] == [
        (f"ns{n:02d}", name) for n in range(5) for name in names
    ]
    left = "100 more permissions were not looked at: 500 are the most at once."
    assert permissions[-1] == Finding("PERMISSION", "SKIPPED", left)
    assert api.most_at_once <= 8


# The callers' clusters.


def _caller(api: FakeApi, host: str = HOST) -> CallerCluster:
    return CallerCluster("prod", FakeCluster(api, host=host))


async def test_a_callers_cluster_may_be_asked_for_reviews() -> None:
    """Where the settings have the same cluster review tokens, its own identity is looked at, before the rights."""
    caller = FakeApi(identity="system:serviceaccount:kubevend:reviewer")
    report = await _check(FakeApi(), role(), callers=[_caller(caller)])
    passed = Finding(
        "TOKEN_REVIEW",
        "PASSED",
        "system:serviceaccount:kubevend:reviewer may review callers' tokens: a binding",
    )
    assert report == Report(OWN, (*GOOD[:5], passed, *GOOD[5:]), "")


async def test_a_callers_cluster_elsewhere_is_not_asked() -> None:
    """A cluster of callers at another host is none of this config's."""
    caller = FakeApi(reviews=False)
    assert await _check(FakeApi(), role(), callers=[_caller(caller, "https://other")]) == Report(OWN, GOOD, "")
    assert caller.asked == []


async def test_a_missing_right_to_review_comes_with_its_rbac() -> None:
    """Where tokens may not be reviewed that fails, and its own identity's RBAC comes after that of the roles."""
    caller = FakeApi(identity="reviewer", reviews=False)
    report = await _check(FakeApi(rights=set()), role(), callers=[_caller(caller)])
    (found,) = _found(report, "TOKEN_REVIEW")
    assert found == Finding(
        "TOKEN_REVIEW",
        "FAILED",
        "reviewer may not review callers' tokens, so no ServiceAccount of prod can call kubevend "
        "(create on tokenreviews.authentication.k8s.io).",
        "KUBERNETES_FORBIDDEN",
        metadata={"identity": "reviewer", "cluster": "prod"},
    )
    objects = list(yaml.safe_load_all(report.missing_rbac))
    assert [each["kind"] for each in objects] == ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]
    assert objects[3]["subjects"] == [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reviewer"}]


async def test_a_callers_cluster_that_does_not_answer_fails() -> None:
    """A cluster of callers that cannot be asked fails by its reason, and the rest is looked at all the same."""
    caller = FakeApi(instead={"selfsubjectaccessreviews": status(401)})
    report = await _check(FakeApi(), role(), callers=[_caller(caller)])
    assert [(f.state, f.reason) for f in _found(report, "TOKEN_REVIEW")] == [("FAILED", "KUBERNETES_UNAUTHORIZED")]
    assert (report.findings[6:], report.missing_rbac) == (GOOD[5:], "")


async def test_one_check_of_a_config_runs_at_a_time() -> None:
    """A second check of the same config is told to come again, and a third, after the first, is answered."""
    checker = Checker(ApiClusters(FakeApi()), (), limits(), clock)
    first = asyncio.create_task(checker.check(config(), [role()]))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as refusal:
        await checker.check(config(), [role()])
    assert refusal.value.reason == "CHECK_RUNNING"
    assert (await first).passed
    assert (await checker.check(config(), [role()])).passed


async def test_a_check_ends_in_time() -> None:
    """What a slow cluster leaves no time for is told as not looked at."""
    ticks = iter([0.0, *[61.0] * 10])
    report = await Checker(ApiClusters(FakeApi()), (), limits(), clock, lambda: next(ticks)).check(config(), [role()])
    (permission,) = _found(report, "PERMISSION")
    assert (permission.state, permission.message) == ("SKIPPED", "Not looked at: the check has taken 60 s.")


async def test_hidden_roles_keep_their_rights() -> None:
    """Where roles that the caller may not get use the config too, no RBAC is printed that would replace theirs."""
    report = await Checker(ApiClusters(FakeApi(rights=set())), (), limits(), clock).check(
        config(), [role()], hidden=True
    )
    assert report.missing_rbac == ""
    assert any("roles that you may not get" in found.message for found in report.findings)

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kubevend_server.authentication.admin import read_admin_digest
from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.authentication.bearer import BearerTokens
from kubevend_server.authentication.forwarded import HEADER, Proxies, Proxy
from kubevend_server.authentication.service_accounts import CallerCluster, ServiceAccounts
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller, service_account, workload
from kubevend_server.cluster.reviews import Reviewed, review_token
from kubevend_server.errors import KubevendError, Unauthenticated, Unavailable
from kubevend_server.listeners import BEARER, Listener, Shown
from tests.unit.builders import ADMIN_TOKEN, NOW, bearer, shown
from tests.unit.world import FakeConnection

RUNNER = service_account("prod", "ci", "runner")
EDGE = Proxy("edge", frozenset({"example.org"}), by="spiffe://example.org/edge")
AT_SOCKET = Listener("edge", proxy="edge")
CART = "spiffe://example.org/ns/shop/sa/cart"
FORWARDED = {HEADER: f"By=spiffe://example.org/edge;Hash={'0' * 64};URI={CART}"}
TOKEN = {"authorization": f"Bearer {ADMIN_TOKEN}"}


def review(**status: Any) -> dict[str, Any]:
    """What a cluster answers to a TokenReview of a valid token."""
    made = {
        "authenticated": True,
        "audiences": ["kubevend"],
        "user": {
            "username": "system:serviceaccount:ci:runner",
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=caller-jti"]},
        },
    }
    return {"status": {**made, **status}}


INVALID = review(authenticated=False, user={}, audiences=[], error="token is expired")


class Time:
    """Both clocks, which move together and only when told."""

    def __init__(self) -> None:
        """Begin now."""
        self.passed = 0.0

    def clock(self) -> datetime:
        """The time of day."""
        return NOW + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        """The age of things."""
        return self.passed


def authenticator(
    *clusters: CallerCluster,
    time: Time | None = None,
    remember: float = 10,
    audience: str = "kubevend",
    most: int = 10_000,
) -> Authenticator:
    """An authenticator that knows the admin and some clusters."""
    time = time or Time()
    bearer_tokens = BearerTokens(
        admin_digest=hashlib.sha256(ADMIN_TOKEN.encode()).digest(),
        service_accounts=ServiceAccounts(clusters, audience, remember, time.monotonic, most),
        issuers=(),
        clock=time.clock,
    )
    return Authenticator(bearer_tokens, Workloads({}, time.clock), Proxies([EDGE]))


def prod(*answers: Mapping[str, Any] | bytes | KubevendError, issuers: tuple[str, ...] = ()) -> CallerCluster:
    """A cluster whose ServiceAccounts may call."""
    return CallerCluster("prod", FakeConnection(*(answers or (review(),))), issuers)


def _asked(cluster: CallerCluster) -> list[tuple[str, Mapping[str, Any]]]:
    assert isinstance(cluster.connection, FakeConnection)
    return cluster.connection.asked


async def _refusal(of: Authenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as refusal:
        await of.authenticate(shown({"authorization": f"Bearer {token}"}))
    assert token not in refusal.value.message
    return refusal.value.reason


@pytest.mark.parametrize("header", [f"Bearer {ADMIN_TOKEN}", f"bearer {ADMIN_TOKEN}", f"BEARER  {ADMIN_TOKEN} "])
async def test_the_admins_token_is_the_admins(header: str) -> None:
    """Whoever shows the bootstrap admin's token is the admin, and no cluster is asked."""
    cluster = prod()
    assert await authenticator(cluster).authenticate(shown({"authorization": header})) == BOOTSTRAP_ADMIN
    assert _asked(cluster) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": ADMIN_TOKEN},
        {"authorization": f"Basic {ADMIN_TOKEN}"},
        {"Authorization": f"Bearer {ADMIN_TOKEN}"},
    ],
)
async def test_without_a_bearer_token_nobody_calls(metadata: dict[str, str]) -> None:
    """No credential, or one in another form, is refused with what to send."""
    with pytest.raises(Unauthenticated) as refusal:
        await authenticator().authenticate(shown(metadata))
    assert refusal.value.reason == "CREDENTIAL_MISSING"


async def test_of_two_tokens_none_counts() -> None:
    """A call with two tokens is refused, though one of them is the admin's, or both."""
    good = f"Bearer {ADMIN_TOKEN}"
    for values in ((good, good), (good, ""), ("", good), (f"Bearer {bearer()}", good)):
        with pytest.raises(Unauthenticated) as refusal:
            await authenticator(prod()).authenticate(Shown(BEARER, {"authorization": values}))
        assert refusal.value.reason == "TWO_IDENTITIES"


@pytest.mark.parametrize(
    "token",
    [
        "not-a-token",
        "a.b.c",
        ADMIN_TOKEN + "x",
        ADMIN_TOKEN[:-1],
        "é",
        jwt.encode({"aud": "kubevend"}, "k" * 32),
        bearer(exp="soon"),
        bearer(exp=None),
        bearer(exp=1e300),
        bearer(exp=[]),
        bearer(aud=5),
        bearer(aud=None),
    ],
)
async def test_a_token_that_is_none_is_refused_at_once(token: str) -> None:
    """What is neither the admin's token nor a JWT with audiences and an expiry is malformed, and no cluster is
    asked.
    """
    cluster = prod()
    assert await _refusal(authenticator(cluster), token) in ("TOKEN_MALFORMED", "TOKEN_AUDIENCE")
    assert _asked(cluster) == []


ANYTHING = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.text()))


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("system:serviceaccount:ci:runner", "runner --namespace=ci"),
        ("system:serviceaccount:ci:--help", "NAME --namespace=NAMESPACE"),
        ("somebody", "NAME --namespace=NAMESPACE"),
        (5, "NAME --namespace=NAMESPACE"),
    ],
)
@pytest.mark.parametrize("claims", [{"aud": "vault"}, {"exp": 1}])
async def test_a_token_of_no_use_says_how_to_make_another(claims: dict[str, Any], subject: object, told: str) -> None:
    """A token for somebody else, or one that has ended, is refused with the command that makes one that will do."""
    with pytest.raises(Unauthenticated) as refusal:
        await authenticator(prod()).authenticate(shown({"authorization": f"Bearer {bearer(sub=subject, **claims)}"}))
    assert refusal.value.message.endswith(f"by hand, `kubectl create token {told} --audience=kubevend` makes one.")


@given(st.dictionaries(st.sampled_from(["aud", "exp"]), ANYTHING))
async def test_no_claims_bring_the_server_down(claims: dict[str, Any]) -> None:
    """Whatever a token's claims are, the answer is a caller or a refusal."""
    try:
        got: object = await authenticator(prod()).authenticate(shown({"authorization": f"Bearer {bearer(**claims)}"}))
    except Unauthenticated as refusal:
        got = refusal
    assert isinstance(got, Caller | Unauthenticated)


@pytest.mark.parametrize("audience", [[], ["https://kubernetes.default.svc"], "other", ["kubevend2"], "kubevend2"])
async def test_a_token_for_somebody_else_is_refused_at_once(audience: Any) -> None:
    """A token without kubevend's audience is refused, and no cluster is asked."""
    cluster = prod()
    assert await _refusal(authenticator(cluster), bearer(aud=audience)) == "TOKEN_AUDIENCE"
    assert _asked(cluster) == []


@pytest.mark.parametrize("age", [0, 1, 100_000])
async def test_an_expired_token_is_refused_at_once(age: int) -> None:
    """A token ends at the moment that it names, and no cluster is asked."""
    cluster = prod()
    # In whole seconds, as tokens count, and `NOW` has a fraction.
    token = bearer(exp=int(NOW.timestamp()) - age)
    assert await _refusal(authenticator(cluster), token) == "TOKEN_EXPIRED"
    assert _asked(cluster) == []


async def test_without_clusters_every_token_is_foreign() -> None:
    """Where the settings name no cluster, no ServiceAccount may call."""
    assert await _refusal(authenticator(), bearer()) == "TOKEN_FOREIGN"


async def test_a_service_account_is_known_by_its_clusters_name() -> None:
    """A token that the cluster accepts is its ServiceAccount's, under the settings' name of the cluster, with its jti;
    the cluster is asked for kubevend's audience.
    """
    cluster, token = prod(), bearer()
    caller = await authenticator(cluster).authenticate(shown({"authorization": f"Bearer {token}"}))
    assert (caller, caller.credential_id) == (RUNNER, "caller-jti")
    assert _asked(cluster) == [
        (
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": ["kubevend"]},
            },
        )
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (INVALID, "TOKEN_REJECTED"),
        (review(audiences=[]), "TOKEN_REJECTED"),
        (review(audiences=["other"]), "TOKEN_REJECTED"),
        (review(user={"username": "system:node:a"}), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (review(user={"username": "ci:runner"}), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (review(user={"username": "system:serviceaccount:ci"}), "TOKEN_NOT_SERVICE_ACCOUNT"),
        (review(user={}), "TOKEN_NOT_SERVICE_ACCOUNT"),
    ],
)
async def test_what_the_cluster_does_not_vouch_for_is_refused(answer: dict[str, Any], reason: str) -> None:
    """A token that is not valid, not for kubevend, or not a ServiceAccount's, is refused."""
    assert await _refusal(authenticator(prod(answer)), bearer()) == reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("", "not valid"),
        (
            "[invalid bearer token, service account token has been invalidated]",
            "invalid bearer token, service account token has been invalidated",
        ),
        (
            '[invalid bearer token, oidc: expected audience "secret", Post "https://hook/": dial tcp 10.0.0.7:443]',
            "invalid bearer token",
        ),
        ("dial tcp 10.0.0.7:8443", "not valid"),
    ],
)
async def test_what_else_a_cluster_says_is_for_the_log(error: str, told: str) -> None:
    """Who is not known learns what is wrong with the ServiceAccount's token, and nothing of the cluster's own set-up,
    which the log has.
    """
    of = authenticator(prod(review(authenticated=False, user={}, audiences=[], error=error)))
    with capture_logs() as logs, pytest.raises(Unauthenticated) as refused:
        await of.authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    assert refused.value.message == f"The bearer token was not accepted (prod: {told})."
    assert [line["error"] for line in logs] == ([error] if error else [])


@pytest.mark.parametrize(
    "answer",
    [Unavailable("KUBERNETES_UNREACHABLE", "Off."), Unavailable("KUBERNETES_TIMED_OUT", "?"), b"no JSON", b"{}"],
)
async def test_a_cluster_that_cannot_tell_is_no_refusal(answer: Any) -> None:
    """Where the cluster cannot be asked, the caller may try again, and is not remembered as unknown."""
    cluster = prod(answer, review())
    of = authenticator(cluster)
    with pytest.raises(Unavailable) as refusal:
        await of.authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    assert (refusal.value.reason, refusal.value.metadata["cluster"]) == ("CALLER_NOT_CHECKED", "prod")
    assert await of.authenticate(shown({"authorization": f"Bearer {bearer()}"})) == RUNNER


async def test_a_token_goes_to_the_cluster_that_issues_such() -> None:
    """Where clusters name their issuers, a token is shown to its issuer's alone."""
    one = CallerCluster("one", FakeConnection(review()), ("https://one",))
    two = CallerCluster("two", FakeConnection(review()), ("https://two",))
    caller = await authenticator(one, two).authenticate(shown({"authorization": f"Bearer {bearer(iss='https://two')}"}))
    assert caller == service_account("two", "ci", "runner")
    assert (len(_asked(one)), len(_asked(two))) == (0, 1)
    assert await _refusal(authenticator(one, two), bearer(iss="https://three")) == "TOKEN_FOREIGN"


async def test_one_cluster_after_the_other_is_asked() -> None:
    """Where no issuers are named, the first cluster that accepts the token gives the caller its name."""
    clusters = CallerCluster("a", FakeConnection(INVALID)), CallerCluster("b", FakeConnection(review()))
    caller = await authenticator(*clusters).authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    assert caller == service_account("b", "ci", "runner")


@pytest.mark.parametrize("answer", [review(), INVALID])
async def test_an_answer_is_remembered_for_a_while(answer: dict[str, Any]) -> None:
    """Acceptance and refusal hold for `remember` seconds, and are asked for anew after that; another token is not
    mistaken for it.
    """
    time, cluster = Time(), prod(answer)
    of = authenticator(cluster, time=time)

    async def call(token: str) -> None:
        try:
            await of.authenticate(shown({"authorization": f"Bearer {token}"}))
        except Unauthenticated:
            return

    for passed, asked in ((0, 1), (9.9, 1), (10, 2), (10, 2), (19.9, 2)):
        time.passed = passed
        await call(bearer())
        assert len(_asked(cluster)) == asked
    await call(bearer(jti="another"))
    assert len(_asked(cluster)) == 3


async def test_an_answer_is_not_remembered_beyond_the_tokens_life() -> None:
    """A remembered token is refused once it has expired."""
    time, cluster = Time(), prod()
    of = authenticator(cluster, time=time, remember=1000)
    token = bearer(exp=int(NOW.timestamp()) + 60)
    assert await of.authenticate(shown({"authorization": f"Bearer {token}"})) == RUNNER
    time.passed = 60
    assert await _refusal(of, token) == "TOKEN_EXPIRED"


async def test_a_remembered_refusal_is_raised_as_a_new_one() -> None:
    """The same refusal is another exception each time, so that it gathers no tracebacks."""
    of = authenticator(prod(INVALID))
    raised = []
    for _ in range(2):
        with pytest.raises(Unauthenticated) as refusal:
            await of.authenticate(shown({"authorization": f"Bearer {bearer()}"}))
        raised.append(refusal.value)
    assert raised[0] is not raised[1]
    assert (raised[0].reason, raised[0].message) == (raised[1].reason, raised[1].message)


async def test_a_review_tells_whose_a_token_is() -> None:
    """A TokenReview's answer is read whole, and what it leaves out is empty."""
    pod = {"authentication.kubernetes.io/pod-name": ["runner-7"], "authentication.kubernetes.io/node-name": ["n1"]}
    bound = review()
    bound["status"]["user"]["extra"].update(pod)
    assert await review_token(FakeConnection(bound), "t", "kubevend") == Reviewed(
        True, "system:serviceaccount:ci:runner", "caller-jti", "runner-7", "n1", ""
    )
    assert await review_token(FakeConnection(review()), "t", "kubevend") == Reviewed(
        True, "system:serviceaccount:ci:runner", "caller-jti"
    )
    assert await review_token(FakeConnection({"status": {}}), "t", "kubevend") == Reviewed(False)


async def test_the_pod_of_a_token_is_known() -> None:
    """Policies know the pod that a token is bound to, and its node."""
    answer = review()
    extra = answer["status"]["user"]["extra"]
    extra.update({"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/node-name": ["n"]})
    caller = await authenticator(prod(answer)).authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    assert caller == service_account("prod", "ci", "runner", pod="p", node="n")
    assert dict(caller.attributes)["pod"] == "p"


@pytest.mark.parametrize("answer", [review(), INVALID, Unavailable("KUBERNETES_UNREACHABLE", "Off.")])
async def test_one_token_is_reviewed_once_at_a_time(answer: Any) -> None:
    """Calls that show one token at the same time wait for one review, though the first of them gives up."""
    cluster = prod(answer)
    of = authenticator(cluster)
    token = shown({"authorization": f"Bearer {bearer()}"})
    calls = [asyncio.create_task(of.authenticate(token)) for _ in range(20)]
    await asyncio.sleep(0)
    calls[0].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)

    assert len(_asked(cluster)) == 1
    assert isinstance(ends[0], asyncio.CancelledError)
    assert len({repr(end) for end in ends[1:]}) == 1
    assert ends[1] is not ends[2] or ends[1] == RUNNER


async def test_refusals_drive_out_no_caller() -> None:
    """However many tokens are refused, a caller that is known is not asked for again."""
    cluster = prod(review(), INVALID)
    of = authenticator(cluster, most=2)
    await of.authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    for number in range(5):
        await _refusal(of, bearer(jti=str(number)))
    await of.authenticate(shown({"authorization": f"Bearer {bearer()}"}))
    assert len(_asked(cluster)) == 6


def test_the_admins_token_is_made_at_the_first_start(tmp_path: Path) -> None:
    """The file is made for its owner only, with a token that is told by its digest alone, and read again later."""
    file = tmp_path / "admin.token"
    digest = read_admin_digest(file)
    token = file.read_text().strip()
    assert token.startswith("kubevend-admin-")
    assert len(token) > 50
    assert file.stat().st_mode & 0o777 == 0o600
    assert digest == hashlib.sha256(token.encode()).digest() == read_admin_digest(file)


@pytest.mark.parametrize(
    "text", ["", "\n", "short", "kubevend-admin-" + "a" * 43, "A1b2" * 12, "kubevend-admin-" + "A1b2" * 7]
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    """What is empty or short everyone could guess, and what has another form could not be kept out of logs."""
    file = tmp_path / "admin.token"
    file.write_text(text)
    with pytest.raises(ValueError, match="holds no token"):
        read_admin_digest(file)


def test_an_authenticator_shows_no_tokens() -> None:
    """What is remembered of tokens stays out of the representation."""
    shown = repr(authenticator(prod()))
    assert ADMIN_TOKEN not in shown
    assert "_accepted" not in shown


@pytest.mark.parametrize(
    ("metadata", "caller"),
    [(FORWARDED, workload(CART, "0" * 64, proxy="edge")), (TOKEN, BOOTSTRAP_ADMIN)],
)
async def test_a_proxy_speaks_for_others(metadata: dict[str, str], caller: Caller) -> None:
    """Behind a proxy the caller is whose certificate it forwards, or whose token comes with the call."""
    assert await authenticator().authenticate(shown(metadata, AT_SOCKET)) == caller


@pytest.mark.parametrize(
    ("metadata", "listener", "reason"),
    [
        ({}, AT_SOCKET, "FORWARDED_MISSING"),
        ({**FORWARDED, **TOKEN}, AT_SOCKET, "TWO_IDENTITIES"),
        ({**FORWARDED, "authorization": ""}, AT_SOCKET, "TWO_IDENTITIES"),
        ({HEADER: "", **TOKEN}, AT_SOCKET, "FORWARDED_MALFORMED"),
        ({"authorization": "Basic x"}, AT_SOCKET, "CREDENTIAL_MISSING"),
        (FORWARDED, BEARER, "FORWARDED_NOT_BELIEVED"),
        ({**FORWARDED, **TOKEN}, BEARER, "FORWARDED_NOT_BELIEVED"),
        ({HEADER: "", **TOKEN}, BEARER, "FORWARDED_NOT_BELIEVED"),
    ],
)
async def test_nobody_else_speaks_for_others(metadata: dict[str, str], listener: Listener, reason: str) -> None:
    """The header counts from proxies alone, and by itself; a proxy that says nothing is no caller."""
    with pytest.raises(Unauthenticated) as refusal:
        await authenticator().authenticate(shown(metadata, listener))

    assert refusal.value.reason == reason

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.authentication.bearer import BearerTokens
from kubevend_server.authentication.forwarded import Proxies
from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.authentication.json_web_keys import ALGORITHMS, VerificationKey, read_keys
from kubevend_server.authentication.oidc import OidcIssuer
from kubevend_server.authentication.service_accounts import CallerCluster, ServiceAccounts
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import Caller, oidc_subject
from kubevend_server.errors import Unauthenticated
from kubevend_server.policy.access import AccessPolicy, Circumstances
from tests.support.issuer import SUBJECT, job_token, public_jwk, rsa_key
from tests.unit.builders import NOW, clock, role, shown
from tests.unit.world import FakeConnection

URL = "https://ci.example"
KEY, OTHER = rsa_key("k1"), rsa_key("k2")
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SECONDS = int(NOW.timestamp())
CLAIMS = ("repository", "ref", "protected", "run")


def issuer(**overrides: Any) -> OidcIssuer:
    """An issuer with two RSA keys and one of EC, of which policies see some claims."""
    algorithms = overrides.pop("algorithms", frozenset({"RS256"}))
    published = [public_jwk(KEY, "k1"), public_jwk(OTHER, "k2"), public_jwk(EC_KEY, "e1")]

    async def read() -> tuple[VerificationKey, ...]:
        return read_keys(json.dumps({"keys": published}).encode(), ALGORITHMS)

    made: dict[str, Any] = {
        "name": "ci",
        "url": URL,
        "audiences": ("kubevend", "https://kubevend"),
        "claims": CLAIMS,
        "groups_claim": "",
        "clock_skew": 30,
        "keys": IssuerKeys("ci", read, 300, 3600, lambda: 0.0),
        "clock": clock,
    }
    return OidcIssuer(algorithms=algorithms, **{**made, **overrides})


def job(**changed: Any) -> str:
    """A job's token by the first key."""
    return job_token(**{"issuer": URL, "key": KEY, "now": NOW, "kid": "k1", **changed})


async def caller_of(token: str, **overrides: Any) -> Caller:
    """Whom the token makes its bearer, where no cluster would accept it."""
    bearer_tokens = BearerTokens(b"", ServiceAccounts((), "kubevend", 10), [issuer(**overrides)], clock)
    return await Authenticator(bearer_tokens, Workloads({}, clock), Proxies([])).authenticate(
        shown({"authorization": f"Bearer {token}"})
    )


async def refusal_of(token: str, **overrides: Any) -> Unauthenticated:
    """Why the token makes its bearer nobody."""
    with pytest.raises(Unauthenticated) as refusal:
        await caller_of(token, **overrides)
    assert token not in refusal.value.message
    return refusal.value


def raw(header: dict[str, Any], payload: dict[str, Any], secret: bytes = b"") -> str:
    """A token as an attacker writes it: any header, and a signature by HMAC, or none."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.digest(secret, b".".join(parts), hashlib.sha256) if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a job's token."""
    payload = job(**changed).split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


async def test_a_job_is_known_by_its_subject() -> None:
    """A sound token's caller is its subject, with those claims that policies may see, and its id."""
    caller = await caller_of(job(jti="job-7", protected=True, run=12))
    expected = oidc_subject(
        "ci",
        SUBJECT,
        (("repository", "acme/shop"), ("ref", "refs/heads/main"), ("protected", "true"), ("run", "12")),
    )
    assert (caller, caller.credential_id) == (expected, "job-7")
    assert caller.name == "oidc://ci/repo%3Aacme%2Fshop%3Aref%3Arefs%2Fheads%2Fmain"


@pytest.mark.parametrize(
    ("algorithm", "key", "kid"),
    [("RS512", KEY, "k1"), ("PS256", OTHER, "k2"), ("ES256", EC_KEY, "e1"), ("ES256", EC_KEY, "")],
)
async def test_an_algorithm_counts_where_it_is_chosen(algorithm: str, key: Any, kid: str) -> None:
    """What the settings allow is accepted with a key that fits, and refused by default."""
    token = job(algorithm=algorithm, key=key, kid=kid)
    assert (await caller_of(token, algorithms=frozenset({algorithm}))).kind == "OidcSubject"
    assert (await refusal_of(token)).reason == "TOKEN_ALGORITHM"


PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
OWN_JWK = public_jwk(rsa_key("attacker"), "k1")
HS256 = {"alg": "HS256", "kid": "k1"}
PARTS = job().split(".")

FORGED: dict[str, tuple[str, str]] = {
    "alg none": (raw({"alg": "none", "kid": "k1"}, claims()), "TOKEN_ALGORITHM"),
    "alg None": (raw({"alg": "None", "kid": "k1"}, claims()), "TOKEN_ALGORITHM"),
    "alg empty": (raw({"alg": "", "kid": "k1"}, claims()), "TOKEN_ALGORITHM"),
    "alg left out": (raw({"kid": "k1"}, claims()), "TOKEN_ALGORITHM"),
    "alg a list": (raw({"alg": ["RS256"], "kid": "k1"}, claims()), "TOKEN_ALGORITHM"),
    "RS256 unsigned": (raw({"alg": "RS256", "kid": "k1"}, claims()), "TOKEN_SIGNATURE"),
    "HS256 under the public key": (raw(HS256, claims(), PUBLIC_PEM), "TOKEN_ALGORITHM"),
    "RS256 by HMAC under the public key": (raw({**HS256, "alg": "RS256"}, claims(), PUBLIC_PEM), "TOKEN_SIGNATURE"),
    "another key of the issuer": (job(kid="k2"), "TOKEN_SIGNATURE"),
    "a key of another kind": (job(kid="e1"), "TOKEN_KEY_UNKNOWN"),
    "an unknown key": (job(kid="k3"), "TOKEN_KEY_UNKNOWN"),
    "no key named, of two": (job(kid=""), "TOKEN_KEY_UNKNOWN"),
    "a key that is a path": (job(kid="../../dev/null"), "TOKEN_KEY_UNKNOWN"),
    "another's key under a known name": (job(key=rsa_key("attacker")), "TOKEN_SIGNATURE"),
    "jwk": (job(key=rsa_key("attacker"), headers={"jwk": OWN_JWK}), "TOKEN_SIGNATURE"),
    "jku": (job(key=rsa_key("attacker"), headers={"jku": "https://127.0.0.1:9/"}), "TOKEN_SIGNATURE"),
    "x5u": (job(key=rsa_key("attacker"), headers={"x5u": "https://127.0.0.1:9/"}), "TOKEN_SIGNATURE"),
    "changed claims": (".".join([PARTS[0], job(sub="admin").split(".")[1], PARTS[2]]), "TOKEN_SIGNATURE"),
    "cut": (job()[:-6], "TOKEN_SIGNATURE"),
    "crit": (job(headers={"crit": ["exp"], "exp": 1}), "TOKEN_MALFORMED"),
    "detached payload": (job(headers={"b64": False, "crit": ["b64"]}), "TOKEN_MALFORMED"),
    "kid a number": (raw({"alg": "RS256", "kid": 1}, claims()), "TOKEN_MALFORMED"),
    "encrypted": (job() + "..", "TOKEN_MALFORMED"),
    "too long": (job(filler="x" * (16 << 10)), "TOKEN_MALFORMED"),
}


@pytest.mark.parametrize(("token", "reason"), FORGED.values(), ids=FORGED)
async def test_forged_tokens_are_refused(token: str, reason: str) -> None:
    """A token that the issuer did not sign, with a key and an algorithm that kubevend itself chose, makes nobody."""
    assert (await refusal_of(token)).reason == reason


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no exp": ({"exp": None}, "TOKEN_CLAIM_MISSING"),
    "no sub": ({"sub": None}, "TOKEN_CLAIM_MISSING"),
    "sub empty": ({"sub": ""}, "TOKEN_CLAIM_MISSING"),
    "no aud": ({"aud": None}, "TOKEN_AUDIENCE"),
    "aud empty": ({"aud": []}, "TOKEN_AUDIENCE"),
    "another aud": ({"aud": "sts.amazonaws.com"}, "TOKEN_AUDIENCE"),
    "aud longer": ({"aud": "kubevend2"}, "TOKEN_AUDIENCE"),
    "aud an object": ({"aud": {"kubevend": 1}}, "TOKEN_AUDIENCE"),
    "aud of lists": ({"aud": [["kubevend"]]}, "TOKEN_AUDIENCE"),
    "expired": ({"exp": SECONDS - 30}, "TOKEN_EXPIRED"),
    "long expired": ({"exp": 0}, "TOKEN_EXPIRED"),
    "exp text": ({"exp": "soon"}, "TOKEN_CLAIM_INVALID"),
    "exp infinite": ({"exp": float("inf")}, "TOKEN_CLAIM_INVALID"),
    "exp no number": ({"exp": float("nan")}, "TOKEN_CLAIM_INVALID"),
    "exp huge": ({"exp": 10**400}, "TOKEN_CLAIM_INVALID"),
    "exp true": ({"exp": True}, "TOKEN_CLAIM_INVALID"),
    "exp negative": ({"exp": -1}, "TOKEN_CLAIM_INVALID"),
    "nbf to come": ({"nbf": SECONDS + 32}, "TOKEN_NOT_YET_VALID"),
    "iat to come": ({"iat": SECONDS + 32}, "TOKEN_NOT_YET_VALID"),
    "nbf text": ({"nbf": "now"}, "TOKEN_CLAIM_INVALID"),
    "sub a number": ({"sub": 5}, "TOKEN_CLAIM_INVALID"),
    "sub in two lines": ({"sub": "a\nb"}, "TOKEN_CLAIM_INVALID"),
    "sub half a character": ({"sub": "\ud800"}, "TOKEN_CLAIM_INVALID"),
    "sub too long": ({"sub": "s" * 1025}, "TOKEN_CLAIM_INVALID"),
    "sub too long once encoded": ({"sub": "/" * 400}, "TOKEN_CLAIM_INVALID"),
    "another iss": ({"iss": "https://ci.example.evil"}, "TOKEN_FOREIGN"),
    "iss with a slash": ({"iss": URL + "/"}, "TOKEN_FOREIGN"),
    "iss in capitals": ({"iss": URL.upper()}, "TOKEN_FOREIGN"),
    "iss a list": ({"iss": [URL]}, "TOKEN_FOREIGN"),
    "a claim in two lines": ({"repository": "acme/shop\n"}, "TOKEN_CLAIM_INVALID"),
    "a claim too long": ({"repository": "r" * 1025}, "TOKEN_CLAIM_INVALID"),
    "a claim that is a list": ({"repository": ["acme/shop"]}, "TOKEN_CLAIM_INVALID"),
    "a claim that is an object": ({"repository": {"name": "acme/shop"}}, "TOKEN_CLAIM_INVALID"),
    "a claim with a fraction": ({"run": 1.5}, "TOKEN_CLAIM_INVALID"),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG.values(), ids=WRONG)
async def test_claims_that_will_not_do_are_refused(changed: dict[str, Any], reason: str) -> None:
    """What the issuer signed counts only for kubevend, in its time, and with claims that can be used."""
    assert (await refusal_of(job(**changed))).reason == reason


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": SECONDS - 29},
        {"nbf": SECONDS + 30, "iat": SECONDS + 30},
        {"exp": SECONDS + 0.5},
        {"nbf": None, "iat": None, "jti": None},
        {"aud": ["somebody else", "https://kubevend"]},
        {"repository": None, "other": {"a": [1]}},
    ],
)
async def test_claims_that_will_do(changed: dict[str, Any]) -> None:
    """A clock may be off by the skew, and what is not needed may be missing, or be anything."""
    assert (await caller_of(job(**changed))).attributes == (("issuer", "ci"), ("subject", SUBJECT))


async def test_without_skew_the_second_counts() -> None:
    """Where the settings allow no skew, a token ends at its second."""
    assert (await refusal_of(job(exp=SECONDS), clock_skew=0)).reason == "TOKEN_EXPIRED"


async def test_a_token_of_an_issuer_goes_to_no_cluster() -> None:
    """A cluster is shown no token that names an issuer of the settings, whether or not it is any good."""
    cluster = CallerCluster("prod", FakeConnection({"status": {}}))
    tokens = BearerTokens(b"", ServiceAccounts([cluster], "kubevend", 10), [issuer()], clock)
    await tokens.authenticate(job())
    with pytest.raises(Unauthenticated, match="not signed by 'ci'"):
        await tokens.authenticate(job(key=OTHER))
    assert isinstance(cluster.connection, FakeConnection)
    assert cluster.connection.asked == []


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["ops", "dev", "ops"], ("ci:ops", "ci:dev")),
        ([], ()),
        (None, ()),
        (["prod:ops"], ("ci:prod:ops",)),
        ("ops", None),
        ({"ops": True}, None),
        ([1], None),
        ([""], None),
        (["a\nb"], None),
        (["g" * 257], None),
        ([str(number) for number in range(201)], None),
    ],
)
async def test_groups_are_the_issuers(groups: Any, expected: tuple[str, ...] | None) -> None:
    """The claim that has groups is a list of names, and each bears the issuer's before it; anything else is refused."""
    token = job(teams=groups)
    if expected is None:
        assert (await refusal_of(token, groups_claim="teams")).reason == "TOKEN_CLAIM_INVALID"
    else:
        assert (await caller_of(token, groups_claim="teams")).groups == expected


async def test_policies_see_claims_and_groups() -> None:
    """A policy decides by a claim, and by a group, and a claim that is not listed is not there."""
    policy = AccessPolicy(
        """
        @id("repository") permit (principal is OidcSubject, action == Action::"GetRole", resource)
        when { principal.issuer == "ci" && principal.hasTag("repository")
               && principal.getTag("repository") == "acme/shop" && !principal.hasTag("repository_owner") };
        @id("group") permit (principal in Group::"ci:ops", action == Action::"DeleteRole", resource);
        """
    )
    found = {}
    for repository in ("acme/shop", "acme/other"):
        caller = await caller_of(job(repository=repository, teams=["ops"]), groups_claim="teams")
        found[repository] = [
            policy.authorize(caller, action, role(), Circumstances(NOW)).policies
            for action in ("GetRole", "DeleteRole")
        ]
    assert found == {"acme/shop": [("repository",), ("group",)], "acme/other": [(), ("group",)]}


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.text(max_size=10), st.integers(), st.floats(), st.lists(st.text(max_size=3))
)
_NAMES = st.sampled_from(["aud", "exp", "nbf", "iat", "sub", "jti", "repository", "teams"])


@given(st.dictionaries(_NAMES, ANYTHING))
async def test_no_claims_bring_the_server_down(changed: dict[str, Any]) -> None:
    """Whatever an issuer signs, the answer is a caller or a refusal."""
    try:
        got: object = await caller_of(job(**changed), groups_claim="teams")
    except Unauthenticated as refusal:
        got = refusal
    assert isinstance(got, Caller | Unauthenticated)


async def test_what_to_do_is_said() -> None:
    """Refusals that happen to everybody once say what to change, where."""
    audience = (await refusal_of(job(aud="https://github.com/acme"))).message
    late = (await refusal_of(job(exp=SECONDS - 60))).message
    early = (await refusal_of(job(nbf=SECONDS + 60))).message
    foreign = (await refusal_of(job(iss=URL + "/"))).message
    ended, begins = (NOW - timedelta(minutes=1)).isoformat(timespec="seconds"), "2026-05-04T12:01:00+00:00"
    assert "(aud) must be 'kubevend' or 'https://kubevend'. In GitHub Actions, ask with &audience=kubevend;" in audience
    assert f"expired at {ended}: get a fresh one" in late
    assert f"counts from {begins} on (nbf)" in early
    assert "raise clock_skew_seconds of callers.issuers.ci" in early
    assert f"iss is '{URL}/'; the settings must have exactly that" in foreign

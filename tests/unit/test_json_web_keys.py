from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from kubevend_server.authentication.json_web_keys import ALGORITHMS, VerificationKey, read_keys
from tests.support.issuer import public_jwk, rsa_key

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def _read(*keys: Any, wanted: frozenset[str] = ALGORITHMS) -> tuple[VerificationKey, ...]:
    return read_keys(json.dumps({"keys": keys}).encode(), wanted)


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (public_jwk(rsa_key("a"), "k"), RSA),
        (public_jwk(rsa_key("a"), "k", use=None), RSA),
        (public_jwk(rsa_key("a"), "k", alg="PS384"), {"PS384"}),
        (public_jwk(rsa_key("a"), "k", key_ops=["verify"]), RSA),
        (public_jwk(EC_KEY, "k"), {"ES256"}),
        (public_jwk(ec.generate_private_key(ec.SECP384R1()), "k"), {"ES384"}),
        (public_jwk(ec.generate_private_key(ec.SECP521R1()), "k"), {"ES512"}),
        (public_jwk(ed25519.Ed25519PrivateKey.generate(), "k"), {"EdDSA"}),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_kind(jwk: dict[str, Any], algorithms: set[str]) -> None:
    """A public key is read with its name, for the algorithms of its kind, or the one that it names."""
    (key,) = _read(jwk)
    assert (key.kid, set(key.algorithms)) == ("k", algorithms)


UNUSABLE: dict[str, Any] = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0", "kid": "k", "alg": "HS256"},
    "symmetric, dressed up": {**public_jwk(rsa_key("a"), "k"), "k": "c2VjcmV0"},
    "with its private half": {**RSAAlgorithm.to_jwk(rsa_key("a"), as_dict=True), "kid": "k"},
    "with its private half, EC": {**ECAlgorithm.to_jwk(EC_KEY, as_dict=True), "kid": "k"},
    "too small": public_jwk(rsa_key("small", 1024), "k"),
    "too large": public_jwk(rsa_key("a"), "k", n="_" * 1401),
    "with a huge exponent": public_jwk(rsa_key("a"), "k", e="_" * 12),
    "for encryption": public_jwk(rsa_key("a"), "k", use="enc"),
    "that only signs": public_jwk(rsa_key("a"), "k", key_ops=["sign"]),
    "for HS256": public_jwk(rsa_key("a"), "k", alg="HS256"),
    "for no algorithm": public_jwk(rsa_key("a"), "k", alg=5),
    "for another kind's algorithm": public_jwk(EC_KEY, "k", alg="RS256"),
    "on another curve": public_jwk(ec.generate_private_key(ec.SECP256K1()), "k"),
    "on no curve": public_jwk(EC_KEY, "k", crv=["P-256"]),
    "off its curve": public_jwk(EC_KEY, "k", x="A" * 43),
    "of no numbers": public_jwk(rsa_key("a"), "k", n="%%%"),
    "without a modulus": public_jwk(rsa_key("a"), "k", n=None),
    "with an even exponent": public_jwk(rsa_key("a"), "k", e="AQ"),
    "with a name that is none": public_jwk(rsa_key("a"), ["k"]),
    "with a name in two lines": public_jwk(rsa_key("a"), "k\nk"),
    "of an unknown kind": {"kty": "AKP", "kid": "k"},
    "text": "key",
    "nothing": None,
}


@pytest.mark.parametrize("jwk", UNUSABLE.values(), ids=UNUSABLE)
def test_what_proves_nothing_is_no_key(jwk: Any) -> None:
    """A key that is symmetric, given away, weak, for something else, or broken is left out, and the others stay."""
    assert [key.kid for key in _read(jwk, public_jwk(EC_KEY, "good"))] == ["good"]


def test_only_what_is_wanted_is_read() -> None:
    """A key counts for no algorithm that the settings do not name."""
    keys = _read(public_jwk(rsa_key("a"), "k1"), public_jwk(EC_KEY, "k2"), wanted=frozenset({"RS256"}))
    assert [(key.kid, set(key.algorithms)) for key in keys] == [("k1", {"RS256"})]


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000, json.dumps({"keys": [1] * 201}).encode()]
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    """What is no JSON Web Key Set, or one of more than 200 keys, is an error and not an empty set."""
    with pytest.raises(ValueError, match="it "):
        read_keys(document, ALGORITHMS)


_MEMBERS = st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "n", "e", "crv", "x", "y"])
_VALUES = st.one_of(st.none(), st.text(max_size=20), st.integers(), st.lists(st.text(max_size=3)), st.just("P-256"))


@given(
    st.dictionaries(_MEMBERS, _VALUES), st.sampled_from([public_jwk(rsa_key("a"), "k"), public_jwk(EC_KEY, "k"), {}])
)
def test_no_key_brings_the_server_down(members: dict[str, Any], jwk: dict[str, Any]) -> None:
    """Whatever a key's members are, it is one or it is left out."""
    assert len(_read({**jwk, **members})) <= 1

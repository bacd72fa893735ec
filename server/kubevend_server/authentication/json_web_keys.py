"""The keys by which an issuer signs: those of its JSON Web Key Set that can be used.

See RFC 7517 for the set, RFC 7518 for what is in a key, and RFC 8725 for what to beware of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from kubevend_server.text import is_plain

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
ALGORITHMS = _RSA | frozenset(_CURVES.values()) | {"EdDSA"}
"""Those that may be chosen. All are asymmetric: a key that verifies could otherwise sign as well."""

_LEAST_RSA_BITS = 2048
# 8192 bits in base64url, and 64 for the exponent: what is longer costs more than anybody should be able to ask for.
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,1400}")
_LONGEST_EXPONENT = 11
_LONGEST_KID = 512
_MOST_KEYS = 200


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key.

    Attributes:
        kid: its name, or empty.
        algorithms: those that it may be used with.
        public: itself, as PyJWT takes it.
    """

    kid: str
    algorithms: frozenset[str]
    public: Any = field(repr=False)


def read_keys(document: bytes, algorithms: Collection[str]) -> tuple[VerificationKey, ...]:
    """Read a JSON Web Key Set.

    Left out are keys that are of no use: symmetric ones, those whose private half is published with them, those for
    encryption, for algorithms that are not wanted, of unknown kinds, and RSA keys of fewer than 2048 bits.

    Args:
        document: JSON.
        algorithms: those that are wanted, out of `ALGORITHMS`.

    Raises:
        ValueError: it is no JSON Web Key Set; the message quotes nothing of it.
    """
    try:
        found = msgspec.json.decode(document, type=_KeySet).keys
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("it is no JSON Web Key Set") from error
    if len(found) > _MOST_KEYS:
        raise ValueError(f"it has more than {_MOST_KEYS} keys")
    return tuple(key for key in (_read_key(one, frozenset(algorithms)) for one in found) if key)


_READERS: Mapping[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "RSA": (RSAAlgorithm.from_jwk, ("n", "e")),
    "EC": (ECAlgorithm.from_jwk, ("x", "y")),
    "OKP": (OKPAlgorithm.from_jwk, ("x",)),
}
"""What makes a key of its kind, and the members of a public one besides `kty` and `crv`."""


class _KeySet(msgspec.Struct):
    keys: list[Any]


def _read_key(jwk: Any, wanted: frozenset[str]) -> VerificationKey | None:
    if not isinstance(jwk, dict) or "d" in jwk or "k" in jwk:
        return None
    kid, algorithm, operations = jwk.get("kid", ""), jwk.get("alg"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not is_plain(kid, _LONGEST_KID) or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithms = _algorithms(jwk) & wanted
    if algorithm is not None:
        algorithms &= {algorithm} if isinstance(algorithm, str) else set()
    public = _public(jwk) if algorithms else None
    return VerificationKey(kid, algorithms, public) if public is not None else None


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """The algorithms that a key of this kind is good for."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        return _RSA
    if kind == "EC" and isinstance(curve, str) and curve in _CURVES:
        return frozenset({_CURVES[curve]})
    return frozenset({"EdDSA"}) if (kind, curve) == ("OKP", "Ed25519") else frozenset()


def _public(jwk: Mapping[str, Any]) -> Any:
    """The public key, or None where there is none that can be used."""
    kind = jwk["kty"]
    read, members = _READERS[kind]
    numbers = {name: jwk.get(name) for name in members}
    if not all(isinstance(number, str) and _BASE64URL.fullmatch(number) for number in numbers.values()):
        return None
    if len(numbers.get("e") or "") > _LONGEST_EXPONENT:
        return None
    try:
        # Nothing but what a public key consists of.
        public = read({"kty": kind, "crv": jwk.get("crv"), **numbers})
    except (jwt.InvalidKeyError, ValueError, UnsupportedAlgorithm):
        return None
    return None if isinstance(public, rsa.RSAPublicKey) and public.key_size < _LEAST_RSA_BITS else public

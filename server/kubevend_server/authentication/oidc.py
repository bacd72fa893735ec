"""Subjects of OIDC issuers as callers: CI jobs, and whoever else has a token of an issuer that the settings name.

See OpenID Connect Core 1.0, section 3.1.3.7, and RFC 8725 (https://www.rfc-editor.org/rfc/rfc8725).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
from jwt.types import Options

from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.callers import Caller, oidc_subject
from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated
from kubevend_server.text import LONGEST_ID, is_plain

_LONGEST_NAME = 1024
_LONGEST_CLAIM = 1024
_LONGEST_GROUP = 256
_MOST_GROUPS = 200
_END_OF_TIME = 253402300799
"""The last second of the year 9999, which is as far as Python's dates go."""

# By this module, that is: it has the clock, and tells each fault apart.
_UNCHECKED: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True)
class OidcIssuer:
    """An issuer whose subjects may call.

    Attributes:
        name: what the settings call it; it becomes part of the callers' names.
        url: the `iss` of its tokens.
        audiences: one of them must be in a token's `aud`.
        algorithms: those that its tokens may be signed with.
        claims: those that policies may see.
        groups_claim: the claim that has the caller's groups, or empty.
        clock_skew: seconds by which its clock may be off.
        keys: by which it signs.
        clock: tells expired tokens.
    """

    name: str
    url: str
    audiences: tuple[str, ...]
    algorithms: frozenset[str]
    claims: tuple[str, ...]
    groups_claim: str
    clock_skew: float
    keys: IssuerKeys
    clock: Clock

    async def authenticate(self, token: str, said: Mapping[str, Any]) -> Caller:
        """Tell whose token of this issuer it is.

        Args:
            token: the token.
            said: its claims, unproven.

        Raises:
            Unauthenticated: nobody's who may call; the message says what is wrong.
            Unavailable: the issuer's keys are not known.
        """
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            raise self._refusal(
                "TOKEN_ALGORITHM",
                f"is not signed as tokens of {self.name!r} must be: with {_either(sorted(self.algorithms))}",
            )
        # What has ended, or is for somebody else, brings nobody to look for keys.
        self._check(said)
        key = await self.keys.find(header.get("kid", ""), algorithm)
        try:
            # Only the key and the algorithm chosen here: jku, jwk, x5u and x5c of the token count for nothing.
            proven = jwt.decode(token, key, algorithms=[algorithm], options=_UNCHECKED)
        except jwt.InvalidTokenError as error:
            raise self._refusal(
                "TOKEN_SIGNATURE", f"is not signed by {self.name!r}, or was changed or cut on its way: get a fresh one"
            ) from error
        return self.recognize(proven)

    def recognize(self, claims: Mapping[str, Any]) -> Caller:
        """Tell whom the claims of a token that the issuer has signed speak of.

        Raises:
            Unauthenticated: of nobody who may call.
        """
        self._check(claims)
        return self._caller(claims)

    def _check(self, claims: Mapping[str, Any]) -> None:
        """Refuse claims that make a token one of no use.

        Raises:
            Unauthenticated: they do.
        """
        if claims.get("iss") != self.url:
            raise self._refusal("TOKEN_FOREIGN", f"is of another issuer than {self.url!r}")
        audiences = claims.get("aud")
        found = [audiences] if isinstance(audiences, str) else audiences
        if not isinstance(found, list) or not any(audience in self.audiences for audience in found):
            raise self._refusal(
                "TOKEN_AUDIENCE",
                f"is not meant for kubevend: its audience (aud) must be {_either(self.audiences)}. In GitHub Actions, "
                f"ask with &audience={self.audiences[0]}; in GitLab, with aud: {self.audiences[0]} in id_tokens",
            )
        self._check_times(claims)

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self.clock().timestamp()
        ends = _moment(claims, "exp")
        if ends is None:
            raise self._refusal("TOKEN_CLAIM_MISSING", "has no end (exp): have its issuer give it one")
        if math.isnan(ends):
            raise self._invalid("exp", "seconds since 1970")
        if ends + self.clock_skew <= now:
            raise self._refusal("TOKEN_EXPIRED", f"expired at {_written(ends)}: get a fresh one from its issuer")
        for claim in ("nbf", "iat"):
            begins = _moment(claims, claim)
            if begins is None:
                continue
            if math.isnan(begins):
                raise self._invalid(claim, "seconds since 1970")
            if begins - self.clock_skew > now:
                raise self._refusal(
                    "TOKEN_NOT_YET_VALID",
                    f"counts from {_written(begins)} on ({claim}), and it is {_written(now)} here: if that is past, "
                    f"set the clocks right, or raise clock_skew_seconds of callers.issuers.{self.name}",
                )

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        subject, jti = claims.get("sub", ""), claims.get("jti", "")
        if subject == "":
            raise self._refusal("TOKEN_CLAIM_MISSING", "names no subject (sub): have its issuer name one")
        if not isinstance(subject, str) or not is_plain(subject, _LONGEST_NAME):
            raise self._invalid("sub", "text that can be printed")
        credential_id = jti if isinstance(jti, str) and is_plain(jti, LONGEST_ID) else ""
        caller = oidc_subject(self.name, subject, self._seen(claims), self._groups(claims), credential_id)
        if len(caller.name) > _LONGEST_NAME:
            raise self._invalid(
                "sub", f"short enough that the caller's name has no more than {_LONGEST_NAME} characters"
            )
        return caller

    def _seen(self, claims: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """What policies see of the claims. One that the token has not, or that is null, is no tag."""
        found = {name: claims.get(name) for name in self.claims}
        return tuple((name, self._text(name, value)) for name, value in found.items() if value is not None)

    def _text(self, name: str, value: object) -> str:
        # Left out, it would get round a policy that forbids.
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str) or not is_plain(value, _LONGEST_CLAIM):
            raise self._invalid(name, f"text of at most {_LONGEST_CLAIM} characters, a whole number, true or false")
        return value

    def _groups(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        found = claims.get(self.groups_claim) if self.groups_claim else None
        if found is None:
            return ()
        if not isinstance(found, list) or len(found) > _MOST_GROUPS or not all(map(_is_group, found)):
            raise self._invalid(
                self.groups_claim, f"a list of at most {_MOST_GROUPS} texts of at most {_LONGEST_GROUP} characters"
            )
        return tuple(dict.fromkeys(f"{self.name}:{group}" for group in found))

    def _invalid(self, claim: str, expected: str) -> Unauthenticated:
        return self._refusal(
            "TOKEN_CLAIM_INVALID",
            f"has a claim {claim!r} that cannot be used: it must be {expected}. Have its issuer give it such a one, or "
            f"take the claim out of callers.issuers.{self.name} in kubevend's settings",
        )

    def _refusal(self, reason: str, what: str) -> Unauthenticated:
        return Unauthenticated(reason, f"The bearer token {what}.", metadata={"issuer": self.name})


def _moment(claims: Mapping[str, Any], claim: str) -> float | None:
    """Seconds since the epoch; None where there is no such claim, NaN where it is no moment."""
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _END_OF_TIME:
        return math.nan
    return float(value)


def _is_group(value: object) -> bool:
    return isinstance(value, str) and value != "" and is_plain(value, _LONGEST_GROUP)


def _either(options: tuple[str, ...] | list[str]) -> str:
    return " or ".join(repr(option) for option in options)


def _written(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")

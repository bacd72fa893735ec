"""What a bearer token says of itself. None of it is proven before whoever issued it has agreed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt

from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated

_LONGEST_TOKEN = 16 << 10


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims that tell by whom, and whether at all, a token is worth being checked.

    Attributes:
        issuer: `iss`, or empty.
        audiences: `aud`.
        expires: `exp`.
        life: the seconds that it has left; 0 or less where it has expired.
    """

    issuer: str
    audiences: tuple[str, ...]
    expires: datetime
    life: float


def read_payload(token: str) -> Mapping[str, Any]:
    """Read all claims of a token.

    Raises:
        Unauthenticated: it is no JWT, or longer than any that is of use.
    """
    if len(token) > _LONGEST_TOKEN:
        raise _malformed(f"longer than {_LONGEST_TOKEN} characters")
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise _malformed("neither the bootstrap admin's nor a JWT") from error


def read_claims(payload: Mapping[str, Any], clock: Clock) -> Claims:
    """Read what a ServiceAccount's token says of itself.

    Raises:
        Unauthenticated: it has no `aud` and `exp`.
    """
    try:
        audience = payload["aud"]
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list):
            raise TypeError("aud")  # noqa: TRY301 - it is what float() raises for a wrong exp
        expires = datetime.fromtimestamp(float(payload["exp"]), clock().tzinfo)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise _malformed("no ServiceAccount token (a JWT with aud and exp)") from error
    life = (expires - clock()).total_seconds()
    return Claims(str(payload.get("iss", "")), tuple(a for a in audiences if isinstance(a, str)), expires, life)


def _malformed(what: str) -> Unauthenticated:
    return Unauthenticated(
        "TOKEN_MALFORMED", f"The bearer token is {what}: look whether it was cut, or has quotes or a line's end in it."
    )

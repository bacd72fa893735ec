"""What a bearer token says of itself. None of it is proven before whoever issued it has agreed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import jwt

from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated


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


def read_claims(token: str, clock: Clock) -> Claims:
    """Read what a token says of itself.

    Raises:
        Unauthenticated: it is no JWT with `aud` and `exp`.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        audience = claims["aud"]
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list):
            raise TypeError("aud")  # noqa: TRY301 - it is what float() raises for a wrong exp
        expires = datetime.fromtimestamp(float(claims["exp"]), clock().tzinfo)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise Unauthenticated(
            "TOKEN_MALFORMED",
            "The bearer token is neither the bootstrap admin's nor a ServiceAccount token (a JWT with aud and exp).",
        ) from error
    life = (expires - clock()).total_seconds()
    return Claims(str(claims.get("iss", "")), tuple(a for a in audiences if isinstance(a, str)), expires, life)

"""Bearer tokens: the bootstrap admin's, and those whose issuers the settings name."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from kubevend_server.authentication.claims import read_claims
from kubevend_server.authentication.service_accounts import ServiceAccounts
from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller
from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import Shown


@dataclass(frozen=True, slots=True)
class BearerTokens:
    """Tells whose a bearer token is.

    Attributes:
        admin_digest: the SHA-256 of the bootstrap admin's token; empty for no such admin.
        service_accounts: knows the tokens of Kubernetes.
        clock: tells expired tokens.
    """

    admin_digest: bytes
    service_accounts: ServiceAccounts
    clock: Clock

    async def authenticate(self, token: str) -> Caller:
        """Tell whose a token is.

        Raises:
            Unauthenticated: nobody's who may call; the message says what is wrong.
            Unavailable: whoever knows cannot be asked.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if hmac.compare_digest(digest, self.admin_digest):
            return BOOTSTRAP_ADMIN
        known = self.service_accounts.remembered(digest)
        if known is not None:
            return known
        return await self.service_accounts.authenticate(token, digest, read_claims(token, self.clock))


def bearer_token(shown: Shown) -> str:
    """The bearer token that a call shows.

    Raises:
        Unauthenticated: none.
    """
    scheme, _, token = shown.first("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "CREDENTIAL_MISSING",
            "The call shows no credential: send the metadata `authorization: Bearer TOKEN`, with a ServiceAccount "
            "token or the bootstrap admin's.",
        )
    return token.strip()

"""Bearer tokens: the bootstrap admin's, and those whose issuers the settings name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from kubevend_server.authentication.claims import read_claims, read_payload
from kubevend_server.authentication.oidc import OidcIssuer
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
        issuers: whose tokens they verify themselves, each of another URL. A token that names one of them goes to no
            cluster.
        clock: tells expired tokens.
    """

    admin_digest: bytes
    service_accounts: ServiceAccounts
    issuers: Sequence[OidcIssuer]
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
        payload = read_payload(token)
        for issuer in self.issuers:
            if payload.get("iss") == issuer.url:
                return await issuer.authenticate(token, payload)
        return await self.service_accounts.authenticate(token, digest, read_claims(payload, self.clock))


def bearer_token(shown: Shown) -> str:
    """The bearer token that a call shows.

    Raises:
        Unauthenticated: none, or several.
    """
    if len(shown.metadata.get("authorization", ())) > 1:
        raise Unauthenticated(
            "TWO_IDENTITIES",
            "The call has several values of `authorization`, so it does not say who makes it: send one.",
        )
    scheme, _, token = shown.first("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "CREDENTIAL_MISSING",
            "The call shows no credential: send the metadata `authorization: Bearer TOKEN`, with a "
            "ServiceAccount's token, one of an issuer that the settings name, or the bootstrap admin's; with a "
            "certificate, call the listener of its trust domain.",
        )
    return token.strip()

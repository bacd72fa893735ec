"""Which of what a call shows says who makes it: exactly one thing, and never a guess.

The listener says what that is: a token where none asks for a certificate, the certificate where one is demanded. What
shows the other as well is refused: whoever sends two identities may count on the one that does not.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from kubevend_server.authentication.claims import read_claims
from kubevend_server.authentication.service_accounts import ServiceAccounts
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller
from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import PeerCertificate, Shown


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells who calls.

    Attributes:
        admin_digest: the SHA-256 of the bootstrap admin's token; empty for no such admin.
        service_accounts: knows the tokens of Kubernetes.
        workloads: knows the certificates of trust domains.
        clock: tells expired tokens.
    """

    admin_digest: bytes
    service_accounts: ServiceAccounts
    workloads: Workloads
    clock: Clock

    async def authenticate(self, shown: Shown) -> Caller:
        """Tell who calls.

        Raises:
            Unauthenticated: nobody, or a credential that is not accepted; the message says what is wrong.
            Unavailable: whoever knows cannot be asked.
        """
        if shown.certificate is not None:
            return self._by_certificate(shown, shown.certificate)
        return await self._by_token(_bearer(shown))

    def _by_certificate(self, shown: Shown, certificate: PeerCertificate) -> Caller:
        caller = self.workloads.recognize(certificate, shown.listener.trust_domain)
        if "authorization" in shown.metadata:
            raise Unauthenticated(
                "TWO_IDENTITIES",
                f"The call shows two identities: the certificate of {caller.name}, and a token in `authorization`. At "
                "this listener the certificate is the caller: leave the token out, or call the listener for tokens.",
            )
        return caller

    async def _by_token(self, token: str) -> Caller:
        digest = hashlib.sha256(token.encode()).digest()
        if hmac.compare_digest(digest, self.admin_digest):
            return BOOTSTRAP_ADMIN
        known = self.service_accounts.remembered(digest)
        if known is not None:
            return known
        return await self.service_accounts.authenticate(token, digest, read_claims(token, self.clock))


def _bearer(shown: Shown) -> str:
    scheme, _, token = shown.first("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "CREDENTIAL_MISSING",
            "The call shows no credential: send the metadata `authorization: Bearer TOKEN`, with a ServiceAccount "
            "token or the bootstrap admin's.",
        )
    return token.strip()

"""Which of what a call shows says who makes it: exactly one thing, and never a guess.

The listener says what that is: a token where none asks for a certificate, the certificate where one is demanded. What
shows the other as well is refused: whoever sends two identities may count on the one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubevend_server.authentication.bearer import BearerTokens, bearer_token
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import Caller
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import PeerCertificate, Shown


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells who calls.

    Attributes:
        bearer_tokens: tells whose a bearer token is.
        workloads: knows the certificates of trust domains.
    """

    bearer_tokens: BearerTokens
    workloads: Workloads

    async def authenticate(self, shown: Shown) -> Caller:
        """Tell who calls.

        Raises:
            Unauthenticated: nobody, or a credential that is not accepted; the message says what is wrong.
            Unavailable: whoever knows cannot be asked.
        """
        if shown.certificate is not None:
            return self._by_certificate(shown, shown.certificate)
        return await self.bearer_tokens.authenticate(bearer_token(shown))

    def _by_certificate(self, shown: Shown, certificate: PeerCertificate) -> Caller:
        caller = self.workloads.recognize(certificate, shown.listener.trust_domain)
        if "authorization" in shown.metadata:
            raise Unauthenticated(
                "TWO_IDENTITIES",
                f"The call shows two identities: the certificate of {caller.name}, and a token in `authorization`. At "
                "this listener the certificate is the caller: leave the token out, or call the listener for tokens.",
            )
        return caller

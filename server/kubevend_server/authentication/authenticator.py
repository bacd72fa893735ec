"""Which of what a call shows says who makes it: exactly one thing, and never a guess.

The listener says what that is: the certificate where one is demanded, a token where none is asked for. A proxy of the
settings speaks for others, so its own certificate is no caller's: the caller is whom it forwards, or whose token comes
with the call. What shows a second identity is refused: whoever sends two may count on the one that does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubevend_server.authentication.bearer import BearerTokens, bearer_token
from kubevend_server.authentication.forwarded import HEADER, Proxies, Proxy
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.callers import Caller
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import Shown


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells who calls.

    Attributes:
        bearer_tokens: tells whose a bearer token is.
        workloads: tells whose a certificate is.
        proxies: tells who is a proxy, and whose certificate it forwards.
    """

    bearer_tokens: BearerTokens
    workloads: Workloads
    proxies: Proxies

    async def authenticate(self, shown: Shown) -> Caller:
        """Tell who calls.

        Raises:
            Unauthenticated: nobody, or a credential that is not accepted; the message says what is wrong.
            Unavailable: whoever knows cannot be asked.
        """
        peer = None
        if shown.certificate is not None:
            peer = self.workloads.recognize(shown.certificate, shown.listener.trust_domain)
        proxy = self.proxies.find(shown.listener, peer.name if peer else "")
        if proxy is not None:
            return await self._through(proxy, shown)
        if HEADER in shown.metadata:
            raise _not_believed(peer)
        if peer is not None:
            return _alone(shown, peer)
        return await self.bearer_tokens.authenticate(bearer_token(shown))

    async def _through(self, proxy: Proxy, shown: Shown) -> Caller:
        """The caller behind a proxy. A token is as good there as anywhere: the proxy has to vouch for nothing."""
        forwarded = shown.metadata.get(HEADER)
        if forwarded is not None:
            return _alone(shown, self.proxies.caller(proxy, forwarded))
        if "authorization" not in shown.metadata:
            raise Unauthenticated(
                "FORWARDED_MISSING",
                f"The proxy {proxy.name!r} does not say who calls: there is neither {HEADER} nor a token. Call it with "
                "a client certificate, and have it demand one and write the header (Envoy: "
                "`require_client_certificate: true`, `forward_client_cert_details: SANITIZE_SET`).",
                metadata={"proxy": proxy.name},
            )
        return await self.bearer_tokens.authenticate(bearer_token(shown))


def _alone(shown: Shown, caller: Caller) -> Caller:
    """The caller that a certificate shows, if nothing else shows one."""
    if "authorization" in shown.metadata:
        by_way_of = f", which the proxy {caller.proxy!r} forwards" if caller.proxy else ""
        raise Unauthenticated(
            "TWO_IDENTITIES",
            f"The call shows two identities: the certificate of {caller.name}{by_way_of}, and a token in "
            "`authorization`. The certificate is the caller: leave the token out, or call the listener for tokens.",
        )
    return caller


def _not_believed(peer: Caller | None) -> Unauthenticated:
    who = f"{peer.name} is" if peer else "who sends it is"
    return Unauthenticated(
        "FORWARDED_NOT_BELIEVED",
        f"The call has {HEADER}, but {who} no proxy of kubevend's settings, so it may not say who calls. Leave the "
        "header out, or, if it is a proxy, add it to callers.proxies of the settings.",
    )

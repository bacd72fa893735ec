"""Callers behind a mesh, by what a proxy says of the certificate that its client has shown: `x-forwarded-client-cert`.

For each request Envoy (1.40; mutateXfccRequestHeader in source/common/http/conn_manager_utility.cc) writes an element:

    By={URI of its own certificate};Hash={SHA-256 of the client's};Subject="…";URI={URI};DNS={name};DNS=…

and puts it, after a comma, behind whatever the client has sent in this header (`APPEND_FORWARD`), or in its place
(`SANITIZE_SET`). It escapes the subject alone; URIs and DNS names stand there as they are in the certificate. So the
header cannot be taken apart from its beginning or its end: what the client sent may open a quote that swallows Envoy's
element, and a DNS name may be `x,URI=spiffe://…`, an element by its looks. Two certificates and two clients can even
give the same header.

But how Envoy's element begins is known: with `By={URI};Hash=`, its mark. Therefore:

1. The mark is in the header exactly once. Envoy has written it at least once, so this one is Envoy's, and what comes
   before it is of no interest. Who sends another, or has it in a certificate, is refused.
2. All from there to the end is Envoy's, and must be one element that ends with its only URI. What else a name in a
   certificate might say makes that fail. DNS names would come after it, and `URI=a;DNS=b` could as well be of a
   certificate with the URI `a;DNS=b`: so a proxy must not forward them.
3. `Hash=` is not there again after the mark: where the settings name another mark than Envoy writes, a client cannot
   write it in Envoy's place.

What comes out is the URI that Envoy has written, or a refusal (tests/unit/test_forwarded.py). That needs a proxy which
writes an element for every request: one with `FORWARD_ONLY` or `ALWAYS_FORWARD_ONLY` passes on what its client says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubevend_server.authentication.spiffe import trust_domain_of, workload_id_fault
from kubevend_server.callers import Caller, workload
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import Listener, Shown

HEADER = "x-forwarded-client-cert"

_LONGEST = 16 << 10
_PRINTABLE = re.compile(r"[ -~]*")
_PLAIN = r'[^",;\\ ]*'
_REST = re.compile(
    r'(?P<hash>[0-9a-f]{64})(?:;(?:Cert|Chain|Subject)="(?:[^"\\]|\\.)*")*'
    rf"(?P<uris>(?:;URI={_PLAIN})*)(?P<names>(?:;DNS={_PLAIN})*)"
)
"""What comes after the mark, in Envoy's order."""
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that may say whose certificate it was shown.

    Attributes:
        name: what the settings call it.
        trust_domains: those whose workloads it may name.
        spiffe_id: of its own certificate, by which it is known here; empty where it has a socket.
        by: the URI of the certificate that it shows to its clients; empty where that has none.
    """

    name: str
    trust_domains: frozenset[str]
    spiffe_id: str = ""
    by: str = ""

    @property
    def mark(self) -> str:
        """How each element begins that it writes."""
        return f"By={self.by};Hash=" if self.by else "Hash="


class Proxies:
    """The proxies of the settings, and whom they name."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._by_name: Mapping[str, Proxy] = {proxy.name: proxy for proxy in proxies}
        self._by_id: Mapping[str, Proxy] = {proxy.spiffe_id: proxy for proxy in proxies if proxy.spiffe_id}
        self._ids = {*self._by_id, *(proxy.by for proxy in proxies)}

    def find(self, listener: Listener, spiffe_id: str) -> Proxy | None:
        """The proxy that a call comes from, if it does.

        Args:
            listener: by which it came.
            spiffe_id: of the connection's certificate, once that is verified; empty without one.
        """
        return self._by_name[listener.proxy] if listener.proxy else self._by_id.get(spiffe_id)

    def carries_others(self, shown: Shown) -> bool:
        """Whether a proxy makes a call, by its socket or by a certificate that its listener's roots have verified."""
        uris = shown.certificate.uris if shown.certificate is not None else ()
        return self.find(shown.listener, uris[0] if len(uris) == 1 else "") is not None

    def caller(self, proxy: Proxy, values: Sequence[str]) -> Caller:
        """The workload whose certificate a proxy says that it was shown.

        Args:
            proxy: which says so, and is known to be itself.
            values: of the header, of each time that it is there.

        Raises:
            Unauthenticated: it cannot be told who that is, or the proxy may not name it.
        """
        uri, fingerprint = read_element(proxy, values)
        fault = workload_id_fault(uri) if uri else "there is none"
        if fault:
            raise Unauthenticated(
                "FORWARDED_NOT_SPIFFE",
                f"The certificate that the proxy {proxy.name!r} was shown has no SPIFFE ID of a workload as its URI "
                f"({fault}): call with one that has.",
                metadata={"proxy": proxy.name, "uri": uri[:_MOST_SHOWN]},
            )
        if uri in self._ids:
            raise Unauthenticated(
                "PROXY_CHAIN",
                f"The proxy {proxy.name!r} was called by another proxy of the settings ({uri}), so it does not say who "
                "the caller is. Have callers reach it directly, or let the other one call kubevend itself.",
                metadata={"proxy": proxy.name, "uri": uri[:_MOST_SHOWN]},
            )
        if trust_domain_of(uri) not in proxy.trust_domains:
            raise Unauthenticated(
                "FORWARDED_TRUST_DOMAIN",
                f"The proxy {proxy.name!r} may not name workloads of the trust domain {trust_domain_of(uri)!r}: add it "
                f"to callers.proxies.{proxy.name}.trust_domains of kubevend's settings if it shall.",
                metadata={"proxy": proxy.name, "trust_domain": trust_domain_of(uri)},
            )
        return workload(uri, fingerprint, proxy=proxy.name)


def read_element(proxy: Proxy, values: Sequence[str]) -> tuple[str, str]:
    """Take out of the header what a proxy has written there itself.

    Args:
        proxy: the proxy.
        values: of the header, of each time that it is there.

    Returns:
        The URI of its client's certificate, as it is there, and the certificate's SHA-256 in hexadecimal.

    Raises:
        Unauthenticated: it cannot be told what the proxy has written, or that has not exactly one URI.
    """
    element = _REST.fullmatch(_own_text(proxy, values))
    if element is None:
        raise _malformed(
            proxy, f"what comes after {proxy.mark} is no list of Cert, Chain, Subject and URI that ends there"
        )
    uris = element["uris"].split(";URI=")[1:]
    if len(uris) != 1:
        raise Unauthenticated(
            "FORWARDED_URIS",
            f"The certificate that the proxy {proxy.name!r} was shown has {len(uris)} URIs, so it does not say who "
            "calls: use one with a single URI, the SPIFFE ID. Where every call fails so, have the proxy forward the "
            "URI (Envoy: `set_current_client_cert_details: {uri: true}`).",
            metadata={"proxy": proxy.name},
        )
    if element["names"]:
        raise Unauthenticated(
            "FORWARDED_DNS_NAMES",
            f"The proxy {proxy.name!r} forwards DNS names after the URI, and it cannot be told where that ends: have "
            "it forward the URI alone (Envoy: `set_current_client_cert_details: {uri: true, dns: false}`), or call "
            "with a certificate without DNS names.",
            metadata={"proxy": proxy.name},
        )
    return uris[0], element["hash"]


def _own_text(proxy: Proxy, values: Sequence[str]) -> str:
    """What the proxy has written after its mark."""
    if len(values) != 1:
        raise _malformed(proxy, f"it is there {len(values)} times")
    (header,) = values
    if len(header) > _LONGEST:
        raise _malformed(proxy, f"it is longer than {_LONGEST} characters")
    if not _PRINTABLE.fullmatch(header):
        raise _malformed(proxy, "it has characters that are not printable ASCII")
    if proxy.mark not in header:
        raise _malformed(proxy, f"it has no element that begins with {proxy.mark}")
    if header.count(proxy.mark) > 1:
        raise Unauthenticated(
            "FORWARDED_AMBIGUOUS",
            f"{HEADER} has {proxy.mark} more than once, so what the proxy {proxy.name!r} has written cannot be told "
            f"from what it was sent: call it without {HEADER}, or have the proxy replace that (Envoy: "
            "`forward_client_cert_details: SANITIZE_SET`).",
            metadata={"proxy": proxy.name},
        )
    before, _, rest = header.partition(proxy.mark)
    if before and before[-1] != ",":
        raise _malformed(proxy, f"no element begins with {proxy.mark}")
    if "Hash=" in rest:
        raise _malformed(proxy, f"Hash= is there again after {proxy.mark}")
    return rest


def _malformed(proxy: Proxy, fault: str) -> Unauthenticated:
    return Unauthenticated(
        "FORWARDED_MALFORMED",
        f"{HEADER}, as the proxy {proxy.name!r} sent it, does not say who calls: {fault}. The proxy must write its own "
        "element (Envoy: `forward_client_cert_details: SANITIZE_SET` or `APPEND_FORWARD`), and "
        f"callers.proxies.{proxy.name}.by of kubevend's settings must be the URI of the certificate that it shows to "
        "its clients; callers leave the header out.",
        metadata={"proxy": proxy.name},
    )

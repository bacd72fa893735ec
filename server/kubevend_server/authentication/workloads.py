"""Workloads as callers, by the certificate of their connection (an X.509-SVID).

See https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md, section 5.2: besides what the handshake has
checked, the certificate must be a leaf, and its SPIFFE ID one of the trust domain whose authorities were trusted.

The handshake is the past. A connection outlives its certificate, and the authority that has vouched for it, so every
call is held against the clock and against the bundle as it is now. The first call with a certificate costs 0.1 to
0.3 ms, and so does the first after a change of the bundle; what was found out then is used again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kubevend_server.authentication.spiffe import trust_domain_of, workload_id_fault
from kubevend_server.callers import Caller, workload
from kubevend_server.certificates import UNREADABLE, is_leaf, may_issue
from kubevend_server.clock import Clock
from kubevend_server.errors import Unauthenticated
from kubevend_server.listeners import PeerCertificate

_LONGEST_CHAIN = 8
_MOST_SHOWN = 200


class Bundle(Protocol):
    """The authorities of a trust domain."""

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """They; the same object for as long as they are the same."""


@dataclass(frozen=True, slots=True)
class _Recognized:
    """What is known of a certificate.

    Attributes:
        caller: whose it is.
        authorities: by whom it was vouched for.
        ends: until when, by its own and their lives.
    """

    caller: Caller
    authorities: tuple[x509.Certificate, ...]
    ends: datetime


@dataclass(slots=True)
class Workloads:
    """Tells which workload a certificate is of.

    Attributes:
        bundles: the authorities of each trust domain whose workloads may call.
        clock: tells expired certificates.
        most: of how many certificates is known what was found out.
    """

    bundles: Mapping[str, Bundle]
    clock: Clock
    most: int = 10_000
    _remembered: OrderedDict[tuple[str, str], _Recognized] = field(default_factory=OrderedDict, repr=False)

    def recognize(self, certificate: PeerCertificate, trust_domain: str) -> Caller:
        """Tell whose certificate it is.

        Args:
            certificate: of a connection whose handshake it has passed.
            trust_domain: of the listener.

        Raises:
            Unauthenticated: it is nobody's who may call there; the message says what is wrong.
        """
        authorities = self.bundles[trust_domain].authorities
        key, now = (trust_domain, certificate.fingerprint), self.clock()
        known = self._remembered.get(key)
        # What has expired may be another certificate of the chain, and this connection's chain another one.
        if known is None or known.authorities is not authorities or now > known.ends:
            known = _recognize(certificate, trust_domain, authorities)
            self._remembered[key] = known
            while len(self._remembered) > self.most:
                self._remembered.popitem(last=False)
        if now > known.ends:
            raise Unauthenticated(
                "CERTIFICATE_EXPIRED",
                f"The certificate of this connection, or one of those that vouch for it, expired at "
                f"{known.ends.isoformat(timespec='seconds')}: connect again with a fresh one.",
                metadata={"expired": known.ends.isoformat(timespec="seconds")},
            )
        return known.caller


def _recognize(
    certificate: PeerCertificate, trust_domain: str, authorities: tuple[x509.Certificate, ...]
) -> _Recognized:
    spiffe_id = _spiffe_id(certificate, trust_domain)
    try:
        leaf, *others = x509.load_pem_x509_certificates(certificate.chain)
        if not is_leaf(leaf):
            raise Unauthenticated(
                "CERTIFICATE_AUTHORITY",
                "The certificate of this connection may sign others (CA, keyCertSign or cRLSign), so it is an "
                "authority's and no workload's: use a certificate that may not.",
            )
        intermediates = [other for other in others[:_LONGEST_CHAIN] if may_issue(other)]
    except UNREADABLE as error:
        raise Unauthenticated(
            "CERTIFICATE_MALFORMED", "The certificate of this connection cannot be read: make it anew."
        ) from error
    ends = vouched_until(leaf, intermediates, authorities)
    if ends is None:
        raise Unauthenticated(
            "CERTIFICATE_NOT_TRUSTED",
            f"No authority in the bundle of {trust_domain!r} vouches for the certificate of this connection any "
            "longer: get one from an authority that is in it, and connect again.",
            metadata={"trust_domain": trust_domain},
        )
    return _Recognized(workload(spiffe_id, certificate.fingerprint), authorities, ends)


def _spiffe_id(certificate: PeerCertificate, trust_domain: str) -> str:
    """The only URI of a certificate, if it is the SPIFFE ID of a workload of the trust domain."""
    if len(certificate.uris) > 1:
        raise Unauthenticated(
            "CERTIFICATE_TWO_URIS",
            f"The certificate of this connection has {len(certificate.uris)} URIs, so it does not say who calls: use "
            "one with a single URI, the SPIFFE ID.",
        )
    uri = "".join(certificate.uris)
    fault = workload_id_fault(uri) if uri else "there is none"
    if fault:
        raise Unauthenticated(
            "CERTIFICATE_NOT_SPIFFE",
            f"The certificate of this connection has no SPIFFE ID of a workload as its URI ({fault}): use one with "
            f"spiffe://{trust_domain}/ and a path.",
            metadata={"uri": uri[:_MOST_SHOWN]},
        )
    if trust_domain_of(uri) != trust_domain:
        raise Unauthenticated(
            "CERTIFICATE_TRUST_DOMAIN",
            f"The certificate of this connection is for the trust domain {trust_domain_of(uri)!r}, and this listener "
            f"is that of {trust_domain!r}: call the listener of your own.",
            metadata={"trust_domain": trust_domain_of(uri), "expected": trust_domain},
        )
    return uri


def vouched_until(
    certificate: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
) -> datetime | None:
    """Until when authorities vouch for a certificate, by way of intermediates; None where they do not.

    Only who issued what is looked at: the rest of RFC 5280 is for the handshake, which comes before. A client may send
    intermediates that all vouch for each other, so that they have more paths than could be tried: no two certificates
    are held against each other twice.

    Args:
        certificate: the certificate.
        intermediates: those that may stand between, each of which may sign.
        authorities: those that are trusted.

    Returns:
        The end of the path of certificates that lives longest: the least of their ends.
    """
    ends = {authority: authority.not_valid_after_utc for authority in authorities}
    below = {certificate, *intermediates}
    # Whoever lives longest first: what it vouches for is then vouched for no longer by anybody else.
    while ends:
        issuer = max(ends, key=ends.__getitem__)
        end = ends.pop(issuer)
        if issuer == certificate:
            return end
        for issued in [one for one in below if _issued(one, issuer)]:
            below.remove(issued)
            ends[issued] = min(end, issued.not_valid_after_utc)
    return None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, *UNREADABLE):
        return False
    return True

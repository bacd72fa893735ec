"""Whether a server's settings know a caller that nobody recognized, for `kubevend-server policy explain`."""

from __future__ import annotations

from collections.abc import Collection

from kubevend_server.callers import Caller
from kubevend_server.settings import CallersSettings


def caller_fault(caller: Caller, known: CallersSettings) -> str:
    """Why a server with these settings could recognize no such caller; empty where it could.

    What is explained of somebody who cannot call would be no answer about anybody.
    """
    authority = caller.name.partition("://")[2].partition("/")[0]
    if caller.kind == "ServiceAccount":
        return _unknown("callers.clusters", authority, known.clusters)
    if caller.kind == "OidcSubject":
        return _unknown("callers.issuers", authority, known.issuers) or _claims_fault(caller, authority, known)
    if caller.kind == "Workload":
        return _workload_fault(caller, authority, known)
    return ""


def _claims_fault(caller: Caller, issuer: str, known: CallersSettings) -> str:
    listed = known.issuers[issuer].claims
    faults = (_unknown(f"claims of callers.issuers.{issuer}", name, listed) for name, _ in caller.claims)
    return next(filter(None, faults), "")


def _workload_fault(caller: Caller, trust_domain: str, known: CallersSettings) -> str:
    if not caller.proxy:
        return _unknown("callers.trust_domains", trust_domain, known.trust_domains)
    fault = _unknown("callers.proxies", caller.proxy, known.proxies)
    if fault:
        return fault
    named = known.proxies[caller.proxy].trust_domains
    return _unknown(f"trust_domains of callers.proxies.{caller.proxy}", trust_domain, named)


def _unknown(where: str, name: str, known: Collection[str]) -> str:
    if name in known:
        return ""
    return (
        f"The settings have no {name!r} in {where}, so nobody calls like that. There is {', '.join(known) or 'none'}."
    )

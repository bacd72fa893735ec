"""Which settings of trust domains cannot be, and what to put in their place."""

from __future__ import annotations

from collections.abc import Iterator

from kubevend_server.authentication.spiffe import trust_domain_fault
from kubevend_server.settings.callers import TrustDomainSettings
from kubevend_server.settings.sections import ListenerSettings, Settings


def addresses_of(trust_domains: dict[str, TrustDomainSettings]) -> Iterator[tuple[str, str]]:
    """Where they listen, each with the key that says so."""
    for name, found in trust_domains.items():
        yield f'callers.trust_domains."{name}".address', found.address or "empty"


def trust_domain_faults(settings: Settings) -> Iterator[str]:
    """What is wrong with them, each fault as a sentence."""
    listener = settings.listener
    taken = {settings.metrics.address: "metrics", listener.address: "listener"}
    for name, found in settings.callers.trust_domains.items():
        section = f'callers.trust_domains."{name}"'
        fault = trust_domain_fault(name)
        if fault:
            yield f"{section}: {fault}."
        if not found.bundle_file:
            yield f"{section} needs a bundle_file: the authorities of that trust domain, and no others."
        yield from _certificate_faults(section, found, listener)
        if found.address in taken and not found.address.endswith(":0"):
            yield (
                f"{section}.address is {found.address}, which {taken[found.address]} has already: each trust domain "
                "needs a listener of its own, since the authorities of one could vouch for names of the other."
            )
        taken[found.address] = section


def _certificate_faults(section: str, found: TrustDomainSettings, listener: ListenerSettings) -> Iterator[str]:
    if bool(found.certificate_file) != bool(found.private_key_file):
        yield f"{section} has one of certificate_file and private_key_file: give both, or none for those of listener."
    elif not (found.certificate_file or listener.certificate_file):
        yield (
            f"{section} needs certificate_file and private_key_file, since listener has none: a trust domain's "
            "listener always speaks TLS."
        )

"""Which settings of proxies cannot be, and what to put in their place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from kubevend_server.authentication.spiffe import trust_domain_fault, trust_domain_of, workload_id_fault
from kubevend_server.settings.callers import ProxySettings
from kubevend_server.sockets import LONGEST_PATH

_NAME = re.compile(r"[a-z0-9-]+")
_MODES = ("0600", "0660")
_URI = re.compile(r'[^\s",;\\\x00-\x1f\x7f-\U0010ffff]+')


def proxy_faults(proxies: Mapping[str, ProxySettings], trust_domains: Collection[str]) -> Iterator[str]:
    """What is wrong with them, each fault as a sentence.

    Args:
        proxies: the proxies, by their names.
        trust_domains: those that have listeners.
    """
    taken: dict[str, str] = {}
    for name, proxy in proxies.items():
        section = f"callers.proxies.{name}"
        if not _NAME.fullmatch(name):
            yield f"{section}: policies and the audit log have the name: use lower-case letters, digits and hyphens."
        yield from _who_faults(section, proxy, trust_domains)
        yield from _trust_faults(section, proxy)
        for who in filter(None, (proxy.spiffe_id, proxy.socket)):
            if who in taken:
                yield f"{section} is {who}, and so is {taken[who]}: which of them called could not be told."
            taken[who] = section


def _who_faults(section: str, proxy: ProxySettings, trust_domains: Collection[str]) -> Iterator[str]:
    """By what the proxy is known."""
    if bool(proxy.spiffe_id) == bool(proxy.socket):
        yield (
            f"{section} needs either spiffe_id, if the proxy shows a certificate of its own, or socket, a Unix socket "
            "that only it can reach."
        )
    elif proxy.socket:
        yield from _socket_faults(section, proxy)
    else:
        fault = workload_id_fault(proxy.spiffe_id)
        if fault:
            yield f"{section}.spiffe_id is {proxy.spiffe_id!r}: {fault}."
        elif trust_domain_of(proxy.spiffe_id) not in trust_domains:
            yield (
                f"{section}.spiffe_id is of the trust domain {trust_domain_of(proxy.spiffe_id)!r}, which has no "
                f'listener: add [callers.trust_domains."{trust_domain_of(proxy.spiffe_id)}"].'
            )


def _socket_faults(section: str, proxy: ProxySettings) -> Iterator[str]:
    if not proxy.socket.startswith("/") or len(proxy.socket.encode()) > LONGEST_PATH:
        yield f"{section}.socket is {proxy.socket!r}: it must be an absolute path of {LONGEST_PATH} bytes at the most."
    if proxy.by is None:
        yield (
            f"{section} needs by, the URI of the certificate that the proxy shows to its clients: its own words in the "
            'header begin with it. Where that certificate has none, it is "".'
        )
    if proxy.socket_mode not in _MODES:
        yield (
            f'{section}.socket_mode is {proxy.socket_mode!r}: it must be "0600", or "0660" where the proxy is another '
            "user of the same group. Whoever can connect can name anybody, so others never may."
        )


def _trust_faults(section: str, proxy: ProxySettings) -> Iterator[str]:
    """Whom the proxy may name, and how it says so."""
    if not proxy.trust_domains:
        yield f'{section} needs trust_domains, those whose workloads it may name, as ["example.org"].'
    for name in proxy.trust_domains:
        fault = trust_domain_fault(name)
        if fault:
            yield f"{section}.trust_domains has {name!r}: {fault}."
    if proxy.by and not _URI.fullmatch(proxy.by):
        yield (
            f"{section}.by is {proxy.by!r}: it must be the URI of the certificate that the proxy shows to its clients, "
            'without blanks, quotes, commas, semicolons and backslashes; "" where that certificate has none.'
        )

"""Parts that the settings alone decide, for the server (`app.py`) and for the commands beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from kubevend_server.authentication.discovery import PublishedKeys
from kubevend_server.authentication.fetching import Fetcher
from kubevend_server.authentication.forwarded import Proxies, Proxy
from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.authentication.oidc import OidcIssuer
from kubevend_server.authentication.service_accounts import CallerCluster
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import OwnCluster
from kubevend_server.cluster.connection import Connection, Transport
from kubevend_server.cluster.credentials import TokenFile
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.doors import Door
from kubevend_server.files import WatchedFile
from kubevend_server.listeners import BEARER, Listener
from kubevend_server.policy.limits import Limits
from kubevend_server.settings import CallerClusterSettings, OidcIssuerSettings, ProxySettings, Settings
from kubevend_server.sockets import UnixSocket
from kubevend_server.tls import Handshake, Identity, TrustBundle


def make_limits(settings: Settings) -> Limits:
    """What holds whatever a role says."""
    return Limits(
        default_ttl=timedelta(seconds=settings.issuance.default_ttl_seconds),
        max_ttl=timedelta(seconds=settings.issuance.max_ttl_seconds),
        # Who is issued a token for one of these could call as whom it is of.
        reserved_audiences=frozenset(
            {settings.callers.audience, *(a for issuer in settings.callers.issuers.values() for a in issuer.audiences)}
        ),
    )


def make_transport(settings: Settings) -> Transport:
    """How clusters are called."""
    kubernetes = settings.kubernetes
    return Transport(
        connect_timeout=kubernetes.connect_timeout_seconds,
        request_timeout=kubernetes.request_timeout_seconds,
        max_connections=kubernetes.max_connections,
        trust_env=kubernetes.trust_env,
    )


def connect_caller_clusters(settings: Settings, own: OwnCluster, transport: Transport) -> list[CallerCluster]:
    """The clusters whose ServiceAccounts may call."""
    return [
        CallerCluster(name, _caller_connection(name, found, own, transport), found.issuers)
        for name, found in settings.callers.clusters.items()
    ]


def make_issuers(settings: Settings, clock: Clock) -> list[OidcIssuer]:
    """The OIDC issuers whose subjects may call."""
    return [_make_issuer(name, found, clock) for name, found in settings.callers.issuers.items()]


def _make_issuer(name: str, found: OidcIssuerSettings, clock: Clock) -> OidcIssuer:
    algorithms = frozenset(found.algorithms)
    fetcher = Fetcher(WatchedFile(Path(found.ca_file)) if found.ca_file else None)
    published = PublishedKeys(found.issuer, found.jwks_url, algorithms, fetcher.fetch)
    return OidcIssuer(
        name=name,
        url=found.issuer,
        audiences=found.audiences,
        algorithms=algorithms,
        claims=found.claims,
        groups_claim=found.groups_claim,
        clock_skew=found.clock_skew_seconds,
        keys=IssuerKeys(name, published.read, found.refresh_seconds, found.outage_seconds, time.monotonic),
        clock=clock,
    )


def _caller_connection(name: str, found: CallerClusterSettings, own: OwnCluster, transport: Transport) -> Connection:
    label = f"callers.clusters.{name} of the settings"
    if not found.kubernetes_host:
        return Connection(own.endpoint(label), own.token, transport)
    ca_file = WatchedFile(Path(found.ca_file)) if found.ca_file else None
    endpoint = Endpoint(label, found.kubernetes_host, ca_file=ca_file)
    return Connection(endpoint, TokenFile(Path(found.token_file)), transport)


def make_proxies(settings: Settings) -> Proxies:
    """The proxies that may say who calls through them."""
    return Proxies([_make_proxy(name, found) for name, found in settings.callers.proxies.items()])


def _make_proxy(name: str, found: ProxySettings) -> Proxy:
    by = found.spiffe_id if found.by is None else found.by
    return Proxy(name, frozenset(found.trust_domains), found.spiffe_id, by)


def read_bundles(settings: Settings) -> dict[str, TrustBundle]:
    """The authorities of each trust domain whose workloads may call, by its name.

    Raises:
        ValueError: a bundle cannot be used; the message says why.
    """
    return {
        name: TrustBundle(f'callers.trust_domains."{name}"', Path(domain.bundle_file))
        for name, domain in settings.callers.trust_domains.items()
    }


def read_identities(settings: Settings) -> dict[str, Identity]:
    """What the listeners show: the trust domains' by their names; that of callers with tokens has none.

    Raises:
        ValueError: a certificate or its key cannot be used; the message says why.
    """
    listener, trust_domains = settings.listener, settings.callers.trust_domains
    found: dict[str, Identity] = {}
    if not listener.insecure_loopback or not all(domain.certificate_file for domain in trust_domains.values()):
        found[""] = Identity("listener", Path(listener.certificate_file), Path(listener.private_key_file))
    for name, domain in trust_domains.items():
        files = Path(domain.certificate_file), Path(domain.private_key_file)
        section = f'callers.trust_domains."{name}"'
        found[name] = Identity(section, *files) if domain.certificate_file else found[""]
    return found


def make_doors(
    settings: Settings, identities: Mapping[str, Identity], bundles: Mapping[str, TrustBundle]
) -> list[Door]:
    """Where calls come in: the first door is that of callers with tokens."""
    listener = settings.listener
    plain = listener.insecure_loopback
    doors = [Door(BEARER, listener.address, None if plain else Handshake(identities[""]).credentials())]
    for name, domain in settings.callers.trust_domains.items():
        credentials = Handshake(identities[name], bundles[name]).credentials()
        doors.append(Door(Listener(name, trust_domain=name), domain.address, credentials))
    for name, proxy in settings.callers.proxies.items():
        if proxy.socket:
            unix_socket = UnixSocket(Path(proxy.socket), int(proxy.socket_mode, 8))
            doors.append(Door(Listener(name, proxy=name), unix_socket))
    return doors

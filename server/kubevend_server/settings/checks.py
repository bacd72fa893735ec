"""Which values of the settings cannot be, and what to put in their place."""

from __future__ import annotations

import ipaddress
import re
from itertools import chain

from kubevend_server.config_rules import ANY_HOST, is_https
from kubevend_server.policy.limits import MINIMUM_TTL
from kubevend_server.settings.callers import CallerClusterSettings
from kubevend_server.settings.issuers import issuer_faults
from kubevend_server.settings.limits import limit_faults
from kubevend_server.settings.proxies import proxy_faults
from kubevend_server.settings.sections import Settings
from kubevend_server.settings.trust_domains import addresses_of, trust_domain_faults

_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):[0-9]{1,5}")
# A label's value in Kubernetes, and short enough to stand in a name.
_INSTANCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_LONGEST_TTL = (1 << 32) - 1
"""Kubernetes' own limit: 2^32 seconds (pkg/apis/authentication/validation)."""


_LONGEST_WINDOW = 86400
"""In seconds. Each request id is a row of the store for so long."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message says which and what to do."""


def check(settings: Settings) -> None:
    """Refuse values that cannot be.

    Raises:
        SettingsError: one of them.
    """
    listener = settings.listener
    if listener.insecure_loopback:
        if not _is_loopback(listener.address):
            raise SettingsError(
                f"listener.insecure_loopback is set, but {listener.address} is no loopback address: use "
                "127.0.0.1 or TLS."
            )
    elif not (listener.certificate_file and listener.private_key_file):
        raise SettingsError("listener needs certificate_file and private_key_file: kubevend speaks TLS.")
    _check_numbers(settings)
    for key, seconds in (
        ("default_ttl_seconds", settings.issuance.default_ttl_seconds),
        ("max_ttl_seconds", settings.issuance.max_ttl_seconds),
    ):
        if not MINIMUM_TTL.total_seconds() <= seconds <= _LONGEST_TTL:
            raise SettingsError(
                f"issuance.{key} is {seconds}; Kubernetes issues tokens for {MINIMUM_TTL.total_seconds():.0f} to "
                f"{_LONGEST_TTL} seconds."
            )
    if not 0 < settings.issuance.renew_after < 1:
        raise SettingsError(
            f"issuance.renew_after is {settings.issuance.renew_after}; it must be a part of a token's life: more "
            "than 0 and less than 1."
        )
    for fault in limit_faults(settings.limits):
        raise SettingsError(fault)
    _check_clusters(settings.callers.clusters)
    for fault in chain(
        trust_domain_faults(settings),
        proxy_faults(settings.callers.proxies, settings.callers.trust_domains),
        issuer_faults(settings.callers),
    ):
        raise SettingsError(fault)
    _check_folders(settings.kubernetes.credential_folders)
    if not settings.callers.audience:
        raise SettingsError("callers.audience is empty: a token for any audience would then do.")


def _check_folders(folders: dict[str, tuple[str, ...]]) -> None:
    for folder, hosts in folders.items():
        if not folder.startswith("/"):
            raise SettingsError(f"kubernetes.credential_folders has {folder!r}: it must be an absolute path.")
        for host in hosts:
            if host != ANY_HOST and not is_https(host):
                raise SettingsError(
                    f"kubernetes.credential_folders lets {folder} go to {host!r}: it must be an https URL "
                    "of a host alone, "
                    'like https://10.0.0.1:6443, or "*" for any.'
                )


def _check_numbers(settings: Settings) -> None:
    kubernetes = settings.kubernetes
    for key, value in (
        ("kubernetes.connect_timeout_seconds", kubernetes.connect_timeout_seconds),
        ("kubernetes.request_timeout_seconds", kubernetes.request_timeout_seconds),
        ("kubernetes.max_connections", kubernetes.max_connections),
    ):
        if value <= 0:
            raise SettingsError(f"{key} is {value}; it must be more than 0.")
    for key, value in (
        ("callers.remember_seconds", settings.callers.remember_seconds),
        ("drain_seconds", settings.drain_seconds),
    ):
        if value < 0:
            raise SettingsError(f"{key} is {value}; it must be 0 or more.")
    _check_instance(settings)
    if settings.log_level not in _LOG_LEVELS:
        raise SettingsError(f"log_level is {settings.log_level!r}; it must be one of {', '.join(_LOG_LEVELS)}.")
    for key, address in (
        ("listener.address", settings.listener.address),
        ("metrics.address", settings.metrics.address),
        *addresses_of(settings.callers.trust_domains),
    ):
        if address and not _ADDRESS.fullmatch(address):
            raise SettingsError(f"{key} is {address!r}; it must be host:port, as 127.0.0.1:7443.")


def _check_instance(settings: Settings) -> None:
    for key, name in (("id", settings.instance.id or "x"), ("replica", settings.instance.replica)):
        if not _INSTANCE_NAME.fullmatch(name):
            raise SettingsError(
                f"instance.{key} is {name!r}; it must be 1 to 40 lower-case letters, digits and hyphens, no hyphen "
                "first or last."
            )
    leases = settings.leases
    if leases.retention_seconds < 0:
        raise SettingsError(f"leases.retention_seconds is {leases.retention_seconds}; it must be 0 or more.")
    if not 1 <= leases.request_seconds <= _LONGEST_WINDOW:
        raise SettingsError(
            f"leases.request_seconds is {leases.request_seconds}; it must be 1 to {_LONGEST_WINDOW}: each request_id "
            "is a row in the store for so long."
        )
    if leases.reconcile_seconds < 1:
        raise SettingsError(f"leases.reconcile_seconds is {leases.reconcile_seconds}; it must be 1 or more.")
    if not 0 <= leases.most_strays <= 1:
        raise SettingsError(f"leases.most_strays is {leases.most_strays}; it must be a share, from 0 to 1.")


def _check_clusters(clusters: dict[str, CallerClusterSettings]) -> None:
    for name, cluster in clusters.items():
        _check_cluster(f"callers.clusters.{name}", cluster)
        others = [c for other, c in clusters.items() if other != name]
        shared = {issuer for other in others for issuer in other.issuers} & set(cluster.issuers)
        if shared:
            raise SettingsError(
                f"callers.clusters.{name} shares the issuers {', '.join(sorted(shared))} with another cluster: each "
                "would be shown the other's tokens. Give the clusters issuers of their own."
            )
        if len(clusters) > 1 and not cluster.issuers:
            raise SettingsError(
                f"callers.clusters.{name} needs issuers, since there are several clusters: without them it would be "
                "shown the tokens of the others, and could use them."
            )
        if not name.replace("-", "").isalnum() or not name.isascii() or name != name.lower():
            raise SettingsError(
                f"callers.clusters.{name}: the name becomes part of the callers' names: use lower-case letters, digits "
                "and hyphens."
            )


def _check_cluster(key: str, cluster: CallerClusterSettings) -> None:
    if not cluster.kubernetes_host:
        return
    if not cluster.kubernetes_host.startswith("https://"):
        raise SettingsError(f"{key}.kubernetes_host is {cluster.kubernetes_host!r}: it must be an https URL.")
    if not cluster.token_file:
        raise SettingsError(
            f"{key} has a kubernetes_host and so needs a token_file: the pod's own token goes to the pod's "
            "own API server."
        )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

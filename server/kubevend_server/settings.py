"""How this server process runs: a TOML file. What it does not know stops the start."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from kubevend_server.authentication import AUDIENCE
from kubevend_server.cluster.clusters import SERVICE_ACCOUNT_FOLDER
from kubevend_server.config_rules import ANY_HOST, is_https
from kubevend_server.policy.limits import MINIMUM_TTL

_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):[0-9]{1,5}")
# A label's value in Kubernetes, and short enough to stand in a name.
_INSTANCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_LONGEST_TTL = (1 << 32) - 1
"""Kubernetes' own limit: 2^32 seconds (pkg/apis/authentication/validation)."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where callers connect.

    Attributes:
        address: `host:port`.
        certificate_file: the server's certificate chain, PEM.
        private_key_file: its key, PEM.
        insecure_loopback: plain text instead of TLS; the address must then be a loopback one.
    """

    address: str = "0.0.0.0:7443"
    certificate_file: str = ""
    private_key_file: str = ""
    insecure_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where configs, roles and leases are kept.

    Attributes:
        url: `sqlite:////absolute/path`.
        key_file: the keys under which credentials are sealed; made on the first start.
    """

    url: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Where audit events go.

    Attributes:
        file: the JSON lines.
        key_file: the key of their chain; made on the first start.
    """

    file: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerClusterSettings:
    """A cluster whose ServiceAccounts may call.

    Attributes:
        kubernetes_host: an https URL; empty for the pod's own API server.
        ca_file: the CA that vouches for it, PEM.
        token_file: with which kubevend asks it (needs system:auth-delegator); empty for the pod's own.
        issuers: the `iss` of its tokens; empty for any.
    """

    kubernetes_host: str = ""
    ca_file: str = ""
    token_file: str = ""
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Who may call at all.

    Attributes:
        admin_token_file: the bootstrap admin's token; made on the first start. Empty for no such admin.
        audience: which ServiceAccount tokens must have.
        remember_seconds: for how long a cluster's answer about a token is used again.
        clusters: by the name that becomes part of the callers' names.
    """

    admin_token_file: str = ""
    audience: str = AUDIENCE
    remember_seconds: float = 10.0
    clusters: dict[str, CallerClusterSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The access policy.

    Attributes:
        folder: every `*.cedar` file in it.
    """

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceSettings:
    """What holds whatever a role says.

    Attributes:
        default_ttl_seconds: where neither request nor role names a TTL.
        max_ttl_seconds: what is longer is shortened.
    """

    default_ttl_seconds: int = 3600
    max_ttl_seconds: int = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """How clusters are called.

    Attributes:
        credential_folders: where the files of configs' credentials may be, and to which hosts (https URLs, or "*" for
            any) what is in them may be shown.
        service_account_folder: the pod's own credential.
        connect_timeout_seconds: for a connection, the wait for a free one included.
        request_timeout_seconds: for a whole request.
        max_connections: at once, to each cluster; what is more waits. No rate is limited.
        trust_env: heed HTTPS_PROXY and its like.
    """

    credential_folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    service_account_folder: str = str(SERVICE_ACCOUNT_FOLDER)
    connect_timeout_seconds: float = 5.0
    request_timeout_seconds: float = 15.0
    max_connections: int = 100
    trust_env: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings:
    """Which kubevend this is, among those that share a cluster or a store.

    Attributes:
        id: the value of the label `kubevend.dev/instance` on all that is made in clusters, by which it is known again.
            Empty: the one that the store has, made up when the store is. Set, it outlives the store; no other kubevend
            in the same clusters may have it.
        replica: the name of this process among those that share the store.
    """

    id: str = ""
    replica: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """How leases end.

    Attributes:
        retention_seconds: for how long a lease is kept after its end.
        reconcile_seconds: how often the clusters are searched for what no lease knows, and issuances that died are
            cleaned up. A deletion that fails is tried again as often at least, and a process that shares the store
            counts as dead when nothing was heard of it for three quarters of that (45 s at the most, 4.5 s at the
            least).
        most_strays: how many objects that no lease knows one search deletes at the most, as a share of all of this
            instance that it found; what is more is left and told, since it is likelier the store that is wrong. 1
            takes that for leave.
    """

    retention_seconds: int = 30 * 86400
    reconcile_seconds: float = 60.0
    most_strays: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Where Prometheus asks.

    Attributes:
        address: `host:port`, plain HTTP; empty for none.
    """

    address: str = "127.0.0.1:9443"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them. `drain_seconds`: how long running calls have at a stop. `log_level`: of the process log."""

    listener: Listener
    store: Store
    audit: Audit
    callers: Callers
    policy: Policy
    issuance: IssuanceSettings = field(default_factory=IssuanceSettings)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)
    instance: InstanceSettings = field(default_factory=InstanceSettings)
    leases: LeaseSettings = field(default_factory=LeaseSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    drain_seconds: float = 10.0
    log_level: str = "info"


def load(path: Path) -> Settings:
    """Read settings from a TOML file.

    Raises:
        SettingsError: the file cannot be read, has a key that is not known, or a value that cannot be.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    try:
        return parse(text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse(text: str) -> Settings:
    """Read settings from TOML.

    Raises:
        SettingsError: it is no TOML, has a key that is not known, or a value that cannot be.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"It is not TOML: {error}.") from error
    _check_keys(found, Settings, "")
    try:
        settings = msgspec.convert(found, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{error}.") from error
    _check(settings)
    return settings


def _check_keys(found: dict[str, Any], expected: Any, path: str) -> None:
    hints = get_type_hints(expected)
    known = [f.name for f in fields(expected)]
    for key, value in found.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {path}{near[0]}?" if near else f"known here: {', '.join(known)}."
            raise SettingsError(f"{path}{key} is not a setting; {hint}")
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_keys(value, hints[key], f"{path}{key}.")
        elif key == "clusters" and isinstance(value, dict):
            for name, cluster in value.items():
                if isinstance(cluster, dict):
                    _check_keys(cluster, get_args(hints[key])[1], f"{path}clusters.{name}.")


def _check(settings: Settings) -> None:
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
    _check_clusters(settings.callers.clusters)
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

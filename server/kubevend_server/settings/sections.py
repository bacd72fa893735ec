"""The sections of the settings, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubevend_server.cluster.clusters import SERVICE_ACCOUNT_FOLDER
from kubevend_server.settings.callers import CallersSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """Where callers connect.

    Attributes:
        address: `host:port`.
        certificate_file: the server's certificate chain, PEM; read again when it changes.
        private_key_file: its key, PEM; the same.
        insecure_loopback: plain text instead of TLS; the address must then be a loopback one.
    """

    address: str = "0.0.0.0:7443"
    certificate_file: str = ""
    private_key_file: str = ""
    insecure_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where configs, roles and leases are kept.

    Attributes:
        url: `sqlite:////absolute/path`.
        key_file: the keys under which credentials are sealed; made on the first start.
    """

    url: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where audit events go.

    Attributes:
        file: the JSON lines.
        key_file: the key of their chain; made on the first start.
    """

    file: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
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
        renew_after: on a stream, the part of a token's life after which the next one follows.
    """

    default_ttl_seconds: int = 3600
    max_ttl_seconds: int = 86400
    renew_after: float = 0.67


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
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
        request_seconds: for how long a `request_id` that is sent again gets a token of the same lease.
    """

    retention_seconds: int = 30 * 86400
    reconcile_seconds: float = 60.0
    most_strays: float = 0.5
    request_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Where Prometheus asks.

    Attributes:
        address: `host:port`, plain HTTP; empty for none.
    """

    address: str = "127.0.0.1:9443"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much callers may ask for. A rate of 0 is no limit; a burst is what may come at once.

    Attributes:
        source_per_second: calls from one address (IPv6: a /64), before anybody looks who they are of. Calls through a
            proxy that the settings name are not counted, since its address says nothing of who they are.
        source_burst: for it.
        source_failures_per_second: calls from one address that fail to show who they are of; what is more is refused
            before a cluster is asked.
        source_failures_burst: for it.
        caller_per_second: calls of one caller.
        caller_burst: for it.
        role_per_second: tokens that are asked for through one role, by all callers.
        role_burst: for it.
        in_flight: calls under way at once, those that wait included.
        in_flight_per_source: of these, from one address.
        in_flight_per_caller: of these, of one caller.
        issuing_per_cluster: tokens for which one cluster is asked at once; what is more waits, and callers take turns.
        request_seconds: for which a request may take to arrive.
        call_seconds: for which a call may take, its own deadline aside.
        request_bytes: of a request's message.
        metadata_bytes: of a request's metadata, its token among it.
        connections: at once, to each listener.
        streams_per_caller: streams of tokens and watches that one caller may have open.
        streams_per_connection: calls under way at once on one connection; clients let what is more wait.
        connection_idle_seconds: after which a connection without calls is closed.
        connection_age_seconds: after which a connection is closed, once its calls are done or a minute is over.
    """

    source_per_second: float = 2000.0
    source_burst: int = 4000
    source_failures_per_second: float = 20.0
    source_failures_burst: int = 200
    caller_per_second: float = 0.0
    caller_burst: int = 100
    role_per_second: float = 0.0
    role_burst: int = 100
    in_flight: int = 1000
    in_flight_per_source: int = 500
    in_flight_per_caller: int = 250
    issuing_per_cluster: int = 32
    request_seconds: float = 10.0
    call_seconds: float = 120.0
    request_bytes: int = 1 << 18
    metadata_bytes: int = 1 << 15
    connections: int = 5000
    streams_per_caller: int = 1000
    streams_per_connection: int = 250
    connection_idle_seconds: float = 600.0
    connection_age_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them. `drain_seconds`: how long running calls have at a stop. `log_level`: of the process log."""

    listener: ListenerSettings
    store: StoreSettings
    audit: AuditSettings
    callers: CallersSettings
    policy: PolicySettings
    issuance: IssuanceSettings = field(default_factory=IssuanceSettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    instance: InstanceSettings = field(default_factory=InstanceSettings)
    leases: LeaseSettings = field(default_factory=LeaseSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    drain_seconds: float = 10.0
    log_level: str = "info"

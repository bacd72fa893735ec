"""The sections of the settings, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubevend_server.authentication.service_accounts import AUDIENCE
from kubevend_server.cluster.clusters import SERVICE_ACCOUNT_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
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
class OidcIssuerSettings:
    """An OIDC issuer whose subjects may call: a CI system, or any other.

    Attributes:
        issuer: its https URL, exactly as its tokens have it in `iss`.
        audiences: of which one must be in a token's `aud`. No role can have tokens for them issued.
        algorithms: with which its tokens may be signed: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512,
            EdDSA.
        ca_file: the CA that vouches for its servers, PEM; empty for the system's.
        jwks_url: an https URL, where its keys are; empty to ask `{issuer}/.well-known/openid-configuration`.
        claims: those that policies see, as tags of the caller: text, whole numbers, true and false.
        groups_claim: the claim that lists the caller's groups, which policies see as `{name}:{group}`; empty for none.
        clock_skew_seconds: by which its clock may be off; 300 at the most.
        refresh_seconds: after which its keys are fetched again; 10 to 86400. A key that it withdraws counts so long.
        outage_seconds: for how long its keys count after they were fetched, where it cannot be reached; not less than
            `refresh_seconds`.
    """

    issuer: str
    audiences: tuple[str, ...] = (AUDIENCE,)
    algorithms: tuple[str, ...] = ("RS256",)
    ca_file: str = ""
    jwks_url: str = ""
    claims: tuple[str, ...] = ()
    groups_claim: str = ""
    clock_skew_seconds: float = 30.0
    refresh_seconds: float = 300.0
    outage_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomainSettings:
    """A SPIFFE trust domain whose workloads may call, by their certificates, at a listener of their own.

    Attributes:
        address: `host:port` of that listener.
        bundle_file: the trust domain's authorities, PEM; read again when it changes.
        certificate_file: the server's certificate chain there, PEM; empty for that of `listener`.
        private_key_file: its key, PEM.
    """

    address: str
    bundle_file: str
    certificate_file: str = ""
    private_key_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """A proxy that says whose certificate it was shown, in `x-forwarded-client-cert`.

    Attributes:
        spiffe_id: of the certificate with which it calls the listener of its trust domain; or
        socket: the absolute path of a Unix socket on which kubevend listens, and which only the proxy can reach. Its
            folder is made where there is none.
        socket_mode: the socket's permissions: `0600`, or `0660` for a proxy of another user in the same group.
        by: the URI of the certificate that it shows to its clients, by which its own words in the header are known
            (`By=`). Left out, it is `spiffe_id`; empty, that certificate has none.
        trust_domains: those whose workloads it may name.
    """

    spiffe_id: str = ""
    socket: str = ""
    socket_mode: str = "0600"
    by: str | None = None
    trust_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Who may call at all.

    Attributes:
        admin_token_file: the bootstrap admin's token; made on the first start. Empty for no such admin.
        audience: which ServiceAccount tokens must have.
        remember_seconds: for how long a cluster's answer about a token, a refusal too, is used again: so long a token
            that was revoked still counts. 10,000 answers are remembered, and as many refusals apart from them.
        clusters: by the name that becomes part of the callers' names.
        issuers: OIDC issuers, by the name that becomes part of the callers' names.
        trust_domains: by their names.
        proxies: by the names that policies and the audit log have for them.
    """

    admin_token_file: str = ""
    audience: str = AUDIENCE
    remember_seconds: float = 10.0
    clusters: dict[str, CallerClusterSettings] = field(default_factory=dict)
    issuers: dict[str, OidcIssuerSettings] = field(default_factory=dict)
    trust_domains: dict[str, TrustDomainSettings] = field(default_factory=dict)
    proxies: dict[str, ProxySettings] = field(default_factory=dict)


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
    streams_per_connection: int = 250
    connection_idle_seconds: float = 600.0
    connection_age_seconds: float = 3600.0


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
    limits: LimitSettings = field(default_factory=LimitSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    drain_seconds: float = 10.0
    log_level: str = "info"

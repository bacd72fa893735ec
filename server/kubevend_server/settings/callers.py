"""The sections of the settings that say who may call, and how they are known; `sections.py` has the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubevend_server.authentication.service_accounts import AUDIENCE


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
class CallersSettings:
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

"""Who calls: the one type for a caller, and the grammar of a caller's name.

Leases, policies, the audit log and metrics all use the name, so its grammar holds for every mechanism, those to come
included. It is a URI (RFC 3986) whose scheme says what kind of identity it is, whose authority says who vouches
for it, and whose path is the name that the authority gives:

    admin://local/bootstrap                          the bootstrap admin of this server
    kubernetes://{cluster}/{namespace}/{name}        a ServiceAccount of a cluster that the settings name
    spiffe://{trust domain}/{path}                   a workload, its SPIFFE ID as it is
    oidc://{issuer}/{subject}                        a subject, percent-encoded, of an issuer that the settings name

`{cluster}` and `{issuer}` are names from the settings, never what the other side calls itself, so that two clusters'
ServiceAccounts never look alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote

from kubevend_server.authentication.spiffe import workload_id_fault

Kind = Literal["Admin", "ServiceAccount", "Workload", "OidcSubject"]
"""The kind of caller, which is its Cedar entity type too."""

Mechanism = Literal["bootstrap_token", "token_review", "mtls", "forwarded_client_cert", "oidc"]
"""How a caller was recognized."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated identity.

    Attributes:
        name: see the grammar above.
        kind: what sort of identity.
        mechanism: how it was recognized: by the bootstrap admin's token; by TokenReview; by its own certificate; by a
            certificate that it showed to a proxy, which forwards what it said (`x-forwarded-client-cert`); by a
            token of an OIDC issuer.
        attributes: what policies may ask about it, besides its name.
        claims: of an `OidcSubject`, those claims of its token that the settings let policies see.
        groups: the groups that it is in, by their names.
        credential_id: the jti of the token that it showed, or the SHA-256 of its certificate; or empty.
        proxy: what the settings call the proxy that vouches for it; empty where it came by itself.
    """

    name: str
    kind: Kind
    mechanism: Mechanism
    attributes: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()
    credential_id: str = field(default="", compare=False)
    proxy: str = ""


# As Istio and SPIRE's Kubernetes registrar write it; both parts are names that Kubernetes takes.
_KUBERNETES_PATH = re.compile(
    r"ns/(?P<namespace>[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)/sa/(?P<service_account>[a-z0-9]([-.a-z0-9]*[a-z0-9])?)"
)

BOOTSTRAP_ADMIN = Caller(name="admin://local/bootstrap", kind="Admin", mechanism="bootstrap_token")


def service_account(
    cluster: str, namespace: str, name: str, credential_id: str = "", *, pod: str = "", node: str = ""
) -> Caller:
    """The caller that is a ServiceAccount of the cluster which the settings call `cluster`.

    Args:
        cluster: that name.
        namespace: its namespace.
        name: its own name.
        credential_id: the jti of its token.
        pod: the name of the pod that the token is bound to, or empty.
        node: the name of that pod's node, or empty.
    """
    bound = tuple((key, value) for key, value in (("pod", pod), ("node", node)) if value)
    return Caller(
        name=f"kubernetes://{cluster}/{namespace}/{name}",
        kind="ServiceAccount",
        mechanism="token_review",
        attributes=(("cluster", cluster), ("namespace", namespace), ("service_account", name), *bound),
        credential_id=credential_id,
    )


def workload(spiffe_id: str, credential_id: str = "", *, proxy: str = "") -> Caller:
    """The caller that is a workload.

    Where its path has the form /ns/{namespace}/sa/{service_account}, as meshes give it to pods, policies can ask for
    the two.

    Args:
        spiffe_id: its SPIFFE ID, already checked.
        credential_id: the SHA-256 of its certificate, in hexadecimal.
        proxy: what the settings call the proxy that vouches for it; empty where it showed the certificate itself.
    """
    trust_domain, _, path = spiffe_id.removeprefix("spiffe://").partition("/")
    of_kubernetes = _KUBERNETES_PATH.fullmatch(path)
    names = of_kubernetes.groupdict().items() if of_kubernetes else ()
    return Caller(
        name=spiffe_id,
        kind="Workload",
        mechanism="forwarded_client_cert" if proxy else "mtls",
        attributes=(("trust_domain", trust_domain), ("path", f"/{path}"), *names),
        credential_id=credential_id,
        proxy=proxy,
    )


def oidc_subject(
    issuer: str,
    subject: str,
    claims: tuple[tuple[str, str], ...] = (),
    groups: tuple[str, ...] = (),
    credential_id: str = "",
) -> Caller:
    """The caller that is a subject of an OIDC issuer.

    Args:
        issuer: what the settings call the issuer.
        subject: `sub`, as it is.
        claims: those of its token that policies may see, by name.
        groups: of its token, as `{issuer}:{group}`.
        credential_id: the jti of the token, or empty.
    """
    return Caller(
        name=f"oidc://{issuer}/{quote(subject, safe='')}",
        kind="OidcSubject",
        mechanism="oidc",
        attributes=(("issuer", issuer), ("subject", subject)),
        claims=claims,
        groups=groups,
        credential_id=credential_id,
    )


def named(
    name: str,
    *,
    claims: tuple[tuple[str, str], ...] = (),
    groups: tuple[str, ...] = (),
    pod: str = "",
    node: str = "",
    proxy: str = "",
) -> Caller:
    """The caller of a name, as it would be once recognized.

    Args:
        name: as the grammar above has it.
        claims: for a subject of an issuer, those that policies may see.
        groups: for such a subject, those of its token, as `{issuer}:{group}`.
        pod: for a ServiceAccount, to which its token is bound.
        node: that pod's.
        proxy: for a workload, what the settings call the proxy that vouches for it.

    Raises:
        ValueError: no caller has such a name, or one of that kind has not what is given besides.
    """
    scheme, _, rest = name.partition("://")
    authority, _, path = rest.partition("/")
    given = {"claims": claims, "groups": groups, "pod": pod, "node": node, "proxy": proxy}
    _check_belongs(name, scheme, [what for what, value in given.items() if value])
    if name == BOOTSTRAP_ADMIN.name:
        return BOOTSTRAP_ADMIN
    if scheme == "spiffe":
        if fault := workload_id_fault(name):
            raise ValueError(f"{name!r} is no caller's name: {fault}.")
        return workload(name, proxy=proxy)
    if scheme == "kubernetes" and authority and re.fullmatch("[^/]+/[^/]+", path):
        return service_account(authority, *path.split("/"), pod=pod, node=node)
    if scheme == "oidc" and authority and path and quote(unquote(path), safe="") == path:
        return oidc_subject(authority, unquote(path), claims, groups)
    raise ValueError(
        f"{name!r} is no caller's name; those are admin://local/bootstrap, kubernetes://CLUSTER/NAMESPACE/NAME, "
        "spiffe://TRUST-DOMAIN/PATH and oidc://ISSUER/SUBJECT, the subject percent-encoded."
    )


_BESIDES = {"spiffe": ("proxy",), "kubernetes": ("pod", "node"), "oidc": ("claims", "groups")}


def _check_belongs(name: str, scheme: str, given: list[str]) -> None:
    for what in given:
        if what not in _BESIDES.get(scheme, ()):
            whose = next(scheme for scheme, those in _BESIDES.items() if what in those)
            raise ValueError(f"{name!r} has no {what}: only callers named {whose}://… have.")

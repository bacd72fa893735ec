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

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["Admin", "ServiceAccount"]
"""The kind of caller, which is its Cedar entity type too."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated identity.

    Attributes:
        name: see the grammar above.
        kind: what sort of identity.
        mechanism: how it was recognized: `bootstrap_token` or `token_review`.
        attributes: what policies may ask about it, besides its name.
        credential_id: the jti of the token that it showed, or empty.
    """

    name: str
    kind: Kind
    mechanism: str
    attributes: tuple[tuple[str, str], ...] = ()
    credential_id: str = field(default="", compare=False)


BOOTSTRAP_ADMIN = Caller(name="admin://local/bootstrap", kind="Admin", mechanism="bootstrap_token")


def service_account(cluster: str, namespace: str, name: str, credential_id: str = "") -> Caller:
    """The caller that is a ServiceAccount of the cluster which the settings call `cluster`."""
    return Caller(
        name=f"kubernetes://{cluster}/{namespace}/{name}",
        kind="ServiceAccount",
        mechanism="token_review",
        attributes=(("cluster", cluster), ("namespace", namespace), ("service_account", name)),
        credential_id=credential_id,
    )

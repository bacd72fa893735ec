"""Roles: what may be issued from one config."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kubevend_server import names

ANY = "*"

Revocation = Literal["NONE", "PER_LEASE", "PER_CALLER", "PER_ROLE"]
"""How leases are ended before their time; the values are those of `Revocation` in the protos."""

RoleKind = Literal["Role", "ClusterRole"]
"""Kubernetes' own names for the kinds of role that its RBAC has."""

Operator = Literal["IN", "NOT_IN", "EXISTS", "DOES_NOT_EXIST"]

DEFAULT_NAME_TEMPLATE = "kubevend-{role}-{caller}-{random}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement of a label selector: `values` at least one for IN and NOT_IN, none for the others."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Namespaces by their labels: what is given must all hold. `policy/selectors.py` says which ones fit."""

    match_labels: tuple[tuple[str, str], ...] = ()
    match_expressions: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class KubernetesRole:
    """A Role or ClusterRole of the cluster's, to which a made ServiceAccount is bound."""

    kind: RoleKind
    name: str


@dataclass(frozen=True, slots=True)
class GeneratedRole:
    """A Role or ClusterRole to make for each lease. `rules` are as the operator wrote them, in YAML or JSON."""

    kind: RoleKind
    rules: str


@dataclass(frozen=True, slots=True)
class Role:
    """What may be issued from one config. Empty allows nothing.

    Attributes:
        name: `roles/{id}`.
        config: `configs/{id}`, whose cluster issues the tokens.
        allowed_namespaces: exact names, or `*` alone.
        allowed_service_accounts: exact names, or `*` alone, in each of those namespaces.
        allowed_audiences: exact.
        default_audiences: for a request that names none; each is allowed.
        ttl: for a request that names none.
        max_ttl: what is longer is shortened.
        labels: pairs for policies to decide by.
        allowed_namespace_selector: more namespaces, by their labels; None for no more.
        revocation: how its leases are ended before their time.
        kubernetes_role: to what a made ServiceAccount is bound; None where none is made, or where that is made too.
        generated_role: what a made ServiceAccount is bound to, made with it.
        cluster_wide_allowed: whether a request may ask for a ClusterRoleBinding.
        name_template: how what is made for a lease is called.
        extra_labels, extra_annotations: for what is made for a lease.
        etag: another one for each version.
    """

    name: str
    config: str = names.DEFAULT_CONFIG
    allowed_namespaces: tuple[str, ...] = ()
    allowed_service_accounts: tuple[str, ...] = ()
    allowed_audiences: tuple[str, ...] = ()
    default_audiences: tuple[str, ...] = ()
    ttl: timedelta | None = None
    max_ttl: timedelta | None = None
    labels: tuple[tuple[str, str], ...] = ()
    allowed_namespace_selector: LabelSelector | None = None
    revocation: Revocation = "NONE"
    kubernetes_role: KubernetesRole | None = None
    generated_role: GeneratedRole | None = None
    cluster_wide_allowed: bool = False
    name_template: str = DEFAULT_NAME_TEMPLATE
    extra_labels: tuple[tuple[str, str], ...] = ()
    extra_annotations: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def makes_accounts(self) -> bool:
        """Whether a ServiceAccount is made for each lease, and goes with it."""
        return self.kubernetes_role is not None or self.generated_role is not None

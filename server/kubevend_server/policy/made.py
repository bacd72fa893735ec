"""What is made in a cluster for one lease, and the labels by which it is known again."""

from __future__ import annotations

from dataclasses import dataclass

from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.roles import Role, RoleKind

INSTANCE_LABEL = "kubevend.dev/instance"
"""Which kubevend made it: its instance's id."""

ROLE_LABEL = "kubevend.dev/role"
"""Through which role it was made: the id, without `roles/`."""

LEASE_LABEL = "kubevend.dev/lease"
"""For which lease it was made: the ULID, without `leases/`. Not on an anchor that several share."""

MANAGED_BY_LABEL, MANAGED_BY = "app.kubernetes.io/managed-by", "kubevend"
"""Kubernetes' own label for it, and its value.

See https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/.
"""

CALLER_ANNOTATION = "kubevend.dev/caller"
"""For whom it was made: the caller's name. An annotation, since no label could hold it."""


ANCHOR_TYPE = "kubevend.dev/anchor"
"""The type of the Secrets that tokens are bound to, by which admission policies know them."""


@dataclass(frozen=True, slots=True)
class MadeAccount:
    """What is made for one lease besides the token: a ServiceAccount and what it is bound to.

    Attributes:
        kind: of what it is bound to.
        role_name: its name: one that exists, or the made one's, which is the ServiceAccount's name too.
        rules: of a role that is made, as `rbac_rules.parse_rules` writes them; empty for one that exists.
        cluster_wide: a ClusterRoleBinding in place of a RoleBinding.
        labels, annotations: the role's extra ones.
    """

    kind: RoleKind
    role_name: str
    rules: str
    cluster_wide: bool
    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]


def account_of(role: Role, name: str, *, cluster_wide: bool) -> MadeAccount:
    """What a role makes for a lease.

    Args:
        role: a role that makes ServiceAccounts.
        name: the ServiceAccount's.
        cluster_wide: whether its rights are to hold in every namespace.
    """
    made, there = role.generated_role, role.kubernetes_role
    return MadeAccount(
        kind=made.kind if made else there.kind if there else "Role",
        role_name=there.name if there else name,
        rules=parse_rules(made.rules, made.kind) if made else "",
        cluster_wide=cluster_wide,
        labels=role.extra_labels,
        annotations=role.extra_annotations,
    )


def own_labels(instance: str, role: str, lease: str = "") -> dict[str, str]:
    """The labels that kubevend puts on what it makes.

    Args:
        instance: the id of this kubevend's instance.
        role: `roles/{id}`.
        lease: `leases/{ULID}`, or empty for an anchor that several leases share.
    """
    labels = {
        MANAGED_BY_LABEL: MANAGED_BY,
        INSTANCE_LABEL: instance,
        ROLE_LABEL: role.removeprefix("roles/"),
        LEASE_LABEL: lease.removeprefix("leases/"),
    }
    return {key: value for key, value in labels.items() if value}

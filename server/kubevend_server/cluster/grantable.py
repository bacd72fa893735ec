"""Whether kubevend may give what a role promises, as the cluster's own RBAC says when it is asked to make it.

A `dryRun=All` create runs admission and RBAC's check against escalation, and writes nothing. See
https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.objects import Manifest, account_kinds, account_manifests, create
from kubevend_server.cluster.rights import has_right
from kubevend_server.errors import FailedPrecondition, KubevendError
from kubevend_server.kinds import RESOURCES
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.made import INSTANCE_LABEL, MANAGED_BY, MANAGED_BY_LABEL, MadeAccount
from kubevend_server.policy.name_template import PREFIX, RANDOM_LENGTH
from kubevend_server.rights import Right

# As kubevend's admission policies ask for them (`rbac/conditions.py`), of an instance that there is not.
_LABELS = {MANAGED_BY_LABEL: MANAGED_BY, INSTANCE_LABEL: "dry-run"}


async def dry_run_rules(connection: Connection, account: MadeAccount, namespace: str) -> KubevendError | None:
    """Find out whether kubevend may make an account's Role or ClusterRole, where it makes one, and bind it.

    Where kubevend has the right to `bind` an existing role, this does not find out whether the role is there: the API
    server then does not look (pkg/registry/rbac/rolebinding/policybased/storage.go).

    Args:
        connection: the cluster.
        account: what is to be made; its `role_name` counts where the role exists.
        namespace: in which one.

    Returns:
        Why not, by its reason: KUBERNETES_ESCALATION, KUBERNETES_FORBIDDEN, KUBERNETES_ROLE_NOT_FOUND, or whatever
        keeps the cluster from saying. None where it may.
    """
    name = f"{PREFIX}dry-run-{secrets.token_hex(RANDOM_LENGTH // 2)}"
    account = replace(account, role_name=name) if account.rules else account
    objects = [
        ClusterObject("", connection.endpoint.label, kind, RESOURCES[kind].place(namespace), name)
        for kind in account_kinds(account)
    ]
    # The ServiceAccount comes last, and takes no right that depends on the rules.
    *bound, _ = account_manifests(objects, account, _LABELS)
    try:
        for made, manifest in bound:
            await _try(connection, made, manifest, account)
    except KubevendError as error:
        return error
    return None


async def _try(connection: Connection, made: ClusterObject, manifest: Manifest, account: MadeAccount) -> None:
    try:
        await create(connection, made, manifest, dry_run=True)
    except FailedPrecondition as refusal:
        # A role that is to be made is not there to be bound yet. Only without the right to bind it is it looked for;
        # what is in it must then be kubevend's own, and the right to make it whatever is in it does not say so.
        if not account.rules or refusal.reason != "KUBERNETES_ROLE_NOT_FOUND":
            raise
        roles = RESOURCES[account.kind]
        right = Right("escalate", roles.plural, roles.group, roles.place(made.namespace))
        escalates, _ = await has_right(connection, right)
        if escalates:
            raise _not_to_be_bound(connection, made, account) from refusal


def _not_to_be_bound(connection: Connection, made: ClusterObject, account: MadeAccount) -> KubevendError:
    where = f" in namespace {made.namespace!r}" if made.namespace else " in the whole cluster"
    return FailedPrecondition(
        "KUBERNETES_ESCALATION",
        f"RBAC of {connection.endpoint.host} lets kubevend make a {account.kind} with rights that it may not have "
        f"itself (the verb escalate), and does not let it bind one: that takes the verb bind on "
        f"{RESOURCES[account.kind].qualified}{where}, or all rights that the rules give.",
        metadata=connection.attempt("", namespace=made.namespace).facts(),
    )

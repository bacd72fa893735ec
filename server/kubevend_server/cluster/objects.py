"""The objects that kubevend makes in a cluster for leases: made, deleted and found again.

Their names come from the store, before they are made, so that a second try finds what the first one made, and nothing
has to be read: kubevend needs no right to get any of them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Answer, Connection, Request
from kubevend_server.cluster.failures import Attempt, from_status, unreadable
from kubevend_server.cluster.lists import METADATA, Metadata, Partial, list_all
from kubevend_server.cluster.status import parse_status
from kubevend_server.kinds import RBAC_GROUP, RESOURCES, Kind
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.made import (
    ANCHOR_TYPE,
    CALLER_ANNOTATION,
    INSTANCE_LABEL,
    LEASE_LABEL,
    ROLE_LABEL,
    MadeAccount,
)
from kubevend_server.text import LONGEST_ID, is_plain

_CORE = "v1"
_BINDINGS = ("RoleBinding", "ClusterRoleBinding")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """An object of kubevend's that is in a cluster.

    Attributes:
        lease: the ULID of the lease for which it was made, or empty.
        role: the id of the role through which it was made.
        create_time: when it was made, by the cluster's clock.
        deleting: whether it is being deleted, and something holds it up.
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    lease: str
    role: str
    create_time: datetime
    deleting: bool


def anchor_manifest(made: ClusterObject, labels: Mapping[str, str], caller: str = "") -> Manifest:
    """The Secret that tokens are bound to: empty, and it stays so.

    Args:
        made: which one.
        labels: kubevend's own (`own_labels`).
        caller: the name of the caller, where it is for one alone.
    """
    return {**_manifest(made, labels, _annotations({}, caller)), "type": ANCHOR_TYPE, "immutable": True}


def account_kinds(account: MadeAccount) -> tuple[Kind, ...]:
    """The kinds of what is made for an account, in the order in which it is.

    The first one owns the others, so that what is left of a deletion that fails goes with it. The order makes sure that
    it can: what is in a namespace owns nothing outside of it.
    See https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/.

    Raises:
        ValueError: a Role is to hold in the whole cluster.
    """
    if account.cluster_wide and account.kind == "Role":
        raise ValueError("A ClusterRoleBinding binds a ClusterRole, never a Role.")
    binding: Kind = "ClusterRoleBinding" if account.cluster_wide else "RoleBinding"
    return (*((account.kind,) if account.rules else ()), binding, "ServiceAccount")


def account_manifests(
    objects: Sequence[ClusterObject], account: MadeAccount, labels: Mapping[str, str], caller: str = ""
) -> list[tuple[ClusterObject, Manifest]]:
    """What is made for an account, in the order of its making. All but the first are to be made `owned` by the first.

    Args:
        objects: one of each of `account_kinds`, in any order.
        account: what they are for.
        labels: kubevend's own (`own_labels`); they prevail over the account's.
        caller: the caller's name.

    Raises:
        ValueError: the objects are not those of the account.
    """
    of_kind = {made.kind: made for made in objects}
    kinds = account_kinds(account)
    if len(of_kind) != len(objects) or set(of_kind) != set(kinds):
        raise ValueError(f"An account of {', '.join(kinds)} cannot be of {', '.join(made.kind for made in objects)}.")
    all_labels = {**dict(account.labels), **labels}
    annotations = _annotations(dict(account.annotations), caller)
    parts = _parts(account, of_kind["ServiceAccount"])
    return [(of_kind[kind], {**_manifest(of_kind[kind], all_labels, annotations), **parts[kind]}) for kind in kinds]


def owned(manifest: Manifest, owner: ClusterObject) -> Manifest:
    """A manifest whose object is deleted after its owner is; unchanged where the owner's UID is not known."""
    if not owner.uid:
        return manifest
    reference = {
        "apiVersion": RESOURCES[owner.kind].api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
    }
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


async def create(connection: Connection, made: ClusterObject, manifest: Manifest, *, dry_run: bool = False) -> str:
    """Make an object.

    Args:
        connection: the cluster.
        made: which one.
        manifest: the object.
        dry_run: have everything checked, and make nothing.

    Returns:
        Its UID; empty where it is there already: an earlier try has made it, since nobody else uses its name.

    Raises:
        KubevendError: it was refused, or it is not known whether it was made.
    """
    attempt = _creation(connection, made, manifest)
    path = RESOURCES[made.kind].path(made.namespace) + ("?dryRun=All" if dry_run else "")
    request = Request("POST", path, manifest, accept=METADATA)
    answer = await connection.call(request, attempt, (HTTPStatus.CONFLICT,))
    if answer.status == HTTPStatus.CONFLICT:
        status = parse_status(answer.body)
        # One that is being deleted exists too (apiserver, pkg/registry/generic/registry/store.go), but is none to use.
        if status and status.reason == "AlreadyExists" and not status.message.startswith("object is being deleted"):
            return ""
        raise from_status(answer.status, answer.headers, answer.body, attempt)
    uid = decode(answer.body, Partial, attempt).metadata.uid
    if not uid or not is_plain(uid, LONGEST_ID):
        raise unreadable(attempt)
    return uid


async def delete(connection: Connection, made: ClusterObject) -> bool:
    """Delete an object, only the one with its UID where that is known.

    What the API server answers tells what became of it, without the right to look: a Status where it is gone (of a
    ServiceAccount the object as it last was), the object with a deletionTimestamp where a finalizer holds it up.

    Returns:
        Whether it is gone, by this or before, or has left its name to another one. Where it is not, it is being
        deleted.

    Raises:
        KubevendError: it was refused, or it is not known what became of it.
    """
    attempt = _deletion(connection, made)
    body: Manifest = {"apiVersion": _CORE, "kind": "DeleteOptions", "propagationPolicy": "Background"}
    if made.uid:
        body["preconditions"] = {"uid": made.uid}
    path = RESOURCES[made.kind].path(made.namespace, made.name)
    judged = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
    answer = await connection.call(Request("DELETE", path, body, accept=METADATA), attempt, judged)
    if answer.status not in judged:
        return _is_gone(answer, made, attempt)
    if not _was_gone(answer, made):
        raise from_status(answer.status, answer.headers, answer.body, attempt)
    return True


def _is_gone(answer: Answer, made: ClusterObject, attempt: Attempt) -> bool:
    """Whether a deletion that was accepted is done."""
    status = parse_status(answer.body)
    if status is not None and status.status == "Success":
        return True
    left = decode(answer.body, Partial, attempt).metadata
    if left.name != made.name:
        raise unreadable(attempt)
    return left.deletionTimestamp is None


def _was_gone(answer: Answer, made: ClusterObject) -> bool:
    """Whether a deletion was refused since there is nothing to delete."""
    status = parse_status(answer.body)
    if status is None:
        return False
    if answer.status == HTTPStatus.NOT_FOUND:
        return status.details.kind in {RESOURCES[made.kind].plural, "namespaces"}
    return bool(made.uid) and "the UID in the precondition" in status.message


async def list_made(connection: Connection, kind: Kind, namespace: str, instance: str) -> list[Found]:
    """Find the objects of one kind that an instance of kubevend has made.

    Args:
        connection: the cluster.
        kind: any but Secret: anchors are not listed, since the right to list Secrets is the right to read them.
        namespace: empty for every one, and for what is in none.
        instance: the instance's id.

    Raises:
        KubevendError: they could not be listed.
        ValueError: Secrets are asked for.
    """
    if kind == "Secret":
        raise ValueError("kubevend lists no Secrets.")
    resource = RESOURCES[kind]
    attempt = _listing(connection, kind, namespace)
    query = {"labelSelector": f"{INSTANCE_LABEL}={instance}"}
    found, _ = await list_all(connection, resource.path(namespace), attempt, query)
    return [_found(kind, metadata) for metadata in found]


def _found(kind: Kind, metadata: Metadata) -> Found:
    return Found(
        kind=kind,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        lease=metadata.labels.get(LEASE_LABEL, ""),
        role=metadata.labels.get(ROLE_LABEL, ""),
        create_time=metadata.creationTimestamp or datetime.fromtimestamp(0, UTC),
        deleting=metadata.deletionTimestamp is not None,
    )


def _annotations(extra: Mapping[str, str], caller: str) -> dict[str, str]:
    return {**extra, **({CALLER_ANNOTATION: caller} if caller else {})}


def _manifest(made: ClusterObject, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Manifest:
    metadata = {
        "name": made.name,
        "namespace": made.namespace,
        "labels": dict(labels),
        "annotations": dict(annotations),
    }
    return {
        "apiVersion": RESOURCES[made.kind].api_version,
        "kind": made.kind,
        "metadata": {key: value for key, value in metadata.items() if value},
    }


def _parts(account: MadeAccount, service_account: ClusterObject) -> dict[Kind, Manifest]:
    """What each kind has besides its metadata."""
    subject = {"kind": "ServiceAccount", "namespace": service_account.namespace, "name": service_account.name}
    reference = {"apiGroup": RBAC_GROUP, "kind": account.kind, "name": account.role_name}
    binding = {"roleRef": reference, "subjects": [subject]}
    rules = {"rules": json.loads(account.rules) if account.rules else []}
    return {
        "Role": rules,
        "ClusterRole": rules,
        "RoleBinding": binding,
        "ClusterRoleBinding": binding,
        # No pod gets its token by accident.
        "ServiceAccount": {"automountServiceAccountToken": False},
    }


# The words of errors.


def _creation(connection: Connection, made: ClusterObject, manifest: Manifest) -> Attempt:
    role = manifest.get("roleRef", {})
    return connection.attempt(
        f"a new {_named(made)}",
        namespace=made.namespace,
        name=made.name,
        right=_right("create", made.kind, made.namespace),
        grant=_command(f"kubevend-makes-{RESOURCES[made.kind].plural}", "create,delete", made.kind, made.namespace),
        role=f"{role['kind']} {role['name']!r}" if role else "",
        escalation=_escalation(made, role.get("kind", ""), role.get("name", "")),
    )


def _deletion(connection: Connection, made: ClusterObject) -> Attempt:
    return connection.attempt(
        f"the deletion of {_named(made)}",
        namespace=made.namespace,
        name=made.name,
        right=_right("delete", made.kind, made.namespace),
        grant=_command(f"kubevend-deletes-{RESOURCES[made.kind].plural}", "delete", made.kind, made.namespace),
        asked=False,
    )


def _listing(connection: Connection, kind: Kind, namespace: str) -> Attempt:
    plural = RESOURCES[kind].plural
    return connection.attempt(
        f"a list of its own {kind}s" + (f" of namespace {namespace}" if namespace else ""),
        namespace=namespace,
        right=_right("list", kind, namespace),
        grant=_command(f"kubevend-lists-{plural}", "list", kind, namespace),
        asked=False,
    )


def _named(made: ClusterObject) -> str:
    return f"{made.kind} {made.namespace}/{made.name}" if made.namespace else f"{made.kind} {made.name}"


def _right(verb: str, kind: Kind, namespace: str) -> str:
    where = f"in namespace {namespace!r}" if namespace else "in the whole cluster"
    return f"the verb {verb} on {RESOURCES[kind].qualified} {where}"


def _escalation(made: ClusterObject, role_kind: str, role_name: str) -> str:
    """The command that lets kubevend make a role with any rules, or bind one whatever its rules."""
    if made.kind in {"Role", "ClusterRole"}:
        return _command(f"kubevend-escalates-{RESOURCES[made.kind].plural}", "escalate,bind", made.kind, made.namespace)
    if made.kind in _BINDINGS:
        kind: Kind = "ClusterRole" if role_kind == "ClusterRole" else "Role"
        return _command(f"kubevend-binds-{role_name}", "bind", kind, made.namespace, role_name)
    return ""


def _command(granted: str, verbs: str, kind: Kind, namespace: str, name: str = "") -> str:
    """The command that grants verbs on a kind, or on one object; `{identity}` stands for to whom."""
    role = "role" if namespace else "clusterrole"
    where = f" --namespace={namespace}" if namespace else ""
    only = f" --resource-name={_word(name)}" if name else ""
    granted = _word(granted)
    return (
        f"kubectl create {role} {granted}{where} --verb={verbs} --resource={RESOURCES[kind].qualified}{only} && "
        f"kubectl create {role}binding {granted}{where} --{role}={granted} {{identity}}"
    )


def _word(text: str) -> str:
    """A text as one word to a shell, in what `str.format` is to fill in."""
    return shlex.quote(text).replace("{", "{{").replace("}", "}}")

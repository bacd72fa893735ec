"""What is made in a cluster for a lease: planned from its grant, written down, then made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from kubevend_server import names
from kubevend_server.audit.log import Event
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.cluster import objects as cluster
from kubevend_server.cluster.connection import Connection
from kubevend_server.configs import Config
from kubevend_server.errors import FailedPrecondition, KubevendError, ResourceExhausted
from kubevend_server.journal import Entry, Journal
from kubevend_server.kinds import RESOURCES
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.policy.grant import Grant
from kubevend_server.policy.made import own_labels
from kubevend_server.policy.name_template import PREFIX
from kubevend_server.store import leases as lease_store
from kubevend_server.store import objects as object_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.changes import Fence
from kubevend_server.store.requests import Claim

_NEVER_MADE = (FailedPrecondition, ResourceExhausted)
"""After these nothing was made; after all else something may have been."""


class AnchorTaken(Exception):
    """Somebody else has just written down the anchor that was planned."""


def plan(grant: Grant, lease: str, now: datetime, scope: str = "") -> tuple[ClusterObject, ...]:
    """What is to be made for a grant, in the order in which it is made.

    Args:
        grant: the grant.
        lease: the lease's name.
        now: the moment.
        scope: whose leases share the anchor; empty for an anchor of one lease.
    """
    config, namespace, account = grant.terms.config, grant.namespace, grant.terms.account
    if account is None:
        new = names.new_id(now)
        return (
            ClusterObject(
                new, config, "Secret", namespace, f"{PREFIX}{new}", lease="" if scope else lease, scope=scope
            ),
        )
    return tuple(
        ClusterObject(
            id=names.new_id(now),
            config=config,
            kind=kind,
            namespace=RESOURCES[kind].place(namespace),
            name=grant.service_account,
            lease=lease,
        )
        for kind in cluster.account_kinds(account)
    )


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes what leases stand on.

    Attributes:
        journal: where a lease is written down before anything is made for it.
        instance: by which id the objects are known to be this store's.
        process: who makes them, among the processes that share the store.
        checkpoint: told of each step.
    """

    journal: Journal
    instance: str
    process: str
    checkpoint: Checkpoint = pass_by

    async def begin(self, pending: Lease, config: Config, intent: Event, claim: Claim | None = None) -> None:
        """Write down a pending lease and what is about to be made for it, with the audit event that says so.

        Args:
            pending: the lease.
            config: its config, by which the cluster is called.
            intent: the event.
            claim: its hold on a request id, where it has one.

        Raises:
            AnchorTaken: somebody else has just made the anchor that it would share; nothing was written.
            Aborted, FailedPrecondition: the config is of another cluster by now, or is gone, or another lease holds the
                request id; nothing was written.
            Unavailable: it could not be written, so nothing must be made.
        """
        fence = Fence(pending.name, config=config, claim=claim)
        rows = (*lease_store.rows(pending), *request_store.rows(claim))
        if not any(each.scope for each in pending.objects):
            # What is for this lease alone nobody else can have made, so it goes with the rows of all others.
            await self.journal.commit(Entry(lambda refusal: None if refusal else intent, rows=rows, fence=fence))
            return
        written = False

        def change(connection: sa.Connection) -> None:
            nonlocal written
            written = lease_store.insert_pending(connection, pending)
            if written and claim is not None:
                connection.execute(request_store.INSERT, [row for _, row in request_store.rows(claim)])

        await self.journal.commit(
            Entry(lambda refusal: None if refusal or not written else intent, change=change, fence=fence)
        )
        if not written:
            raise AnchorTaken

    async def confirm(self, made: Lease) -> None:
        """Write down that what others are to stand on is made.

        Raises:
            Unavailable: it could not be written.
        """
        await self.journal.commit(
            Entry(lambda _: None, change=lambda connection: object_store.set_uids(connection, made.objects))
        )

    async def make(self, connection: Connection, pending: Lease, grant: Grant, touched: list[ClusterObject]) -> Lease:
        """Make what a pending lease stands on, one after the other.

        Args:
            connection: the way to the cluster.
            pending: the lease, already written down.
            grant: what was granted.
            touched: gets each object before it is asked for, its uid once it is made, and loses it where it was surely
                not made.

        Returns:
            The lease with the cluster's own ids of what was made.

        Raises:
            KubevendError: one of them was refused, or failed.
        """
        made: list[ClusterObject] = []
        for each, manifest in self._manifests(pending, grant):
            touched.append(each)
            # What is left of a deletion that fails goes with the first of them.
            whole = cluster.owned(manifest, made[0]) if made else manifest
            try:
                uid = await cluster.create(connection, each, whole)
            except KubevendError as error:
                if isinstance(error, _NEVER_MADE):
                    touched.remove(each)
                raise
            made.append(replace(each, uid=uid))
            touched[-1] = made[-1]
            await self.checkpoint(f"issue.made.{each.kind}")
        return replace(pending, objects=tuple(made))

    def _manifests(self, pending: Lease, grant: Grant) -> Iterable[tuple[ClusterObject, cluster.Manifest]]:
        account = grant.terms.account
        shared = any(each.scope for each in pending.objects)
        labels = own_labels(self.instance, pending.role, "" if shared else pending.name)
        caller = "" if shared else pending.caller
        if account is None:
            return [(each, cluster.anchor_manifest(each, labels, caller)) for each in pending.objects]
        return cluster.account_manifests(pending.objects, account, labels, caller)

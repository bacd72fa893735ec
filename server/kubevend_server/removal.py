"""Deleting in clusters what is not to stand for a lease any more: again and again until it is gone.

What is to be deleted is in the store, so that it outlives this process, and processes that share the store share the
work: each takes a few objects at a time, which the others then leave alone for a while.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import structlog

from kubevend_server.audit import event
from kubevend_server.catalog import Catalog
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.clock import Clock
from kubevend_server.cluster import objects as cluster
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.errors import FailedPrecondition, KubevendError
from kubevend_server.journal import Entry, Journal
from kubevend_server.leases import ClusterObject
from kubevend_server.store import lease_ends
from kubevend_server.store import objects as object_store
from kubevend_server.store.database import Database
from kubevend_server.store.lease_ends import Ended
from kubevend_server.store.objects import Doomed

_AT_ONCE = 16
_LOOK_SECONDS = 1.0
_CLAIM = timedelta(seconds=60)
_FIRST_DELAY = 1.0
_MOST_DOUBLINGS = 10
_LATEST = timedelta(seconds=75)
"""Until when a request that was under way can still have an effect: an API server gives up after 60 s by default
(`--request-timeout`), and it had to get there. What was about to be made when it was deleted is deleted again then."""

_log = structlog.get_logger()


class Remover:
    """Deletes what is marked for it."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        catalog: Catalog,
        clusters: Clusters,
        process: str,
        longest_delay: float,
        clock: Clock,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        """Take what it works with.

        Args:
            database: where it reads what is to be done.
            journal: where it writes what was done.
            catalog: the configs.
            clusters: the clusters of configs.
            process: who takes work, among the processes that share the store.
            longest_delay: seconds, at the most, until a deletion that has failed is tried again.
            clock: the time of day.
            checkpoint: told of each step.
        """
        self._database = database
        self._journal = journal
        self._catalog = catalog
        self._clusters = clusters
        self._process = process
        self._longest_delay = longest_delay
        self._clock = clock
        self._checkpoint = checkpoint
        self._poked = asyncio.Event()
        self._settled = asyncio.Condition()
        self._works: set[asyncio.Task[None]] = set()
        self._working: set[str] = set()
        self._draining: dict[str, asyncio.Task[None]] = {}

    @property
    def working(self) -> frozenset[str]:
        """The ids of the objects that are being deleted just now."""
        return frozenset(self._working)

    def poke(self) -> None:
        """Look at once for what is to be done."""
        self._poked.set()

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background; a failure is logged, and what it left is found by the next reconcile."""
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("background_work_failed", exc_info=task.exception())
        self.poke()

    async def run(self) -> None:
        """Delete what is due, until cancelled: each cluster by itself, so that none waits for another's answers."""
        try:
            while True:
                self._poked.clear()
                try:
                    await self._begin()
                except Exception:  # noqa: BLE001 - the store, most likely; it is looked at again in a moment
                    _log.exception("removal_failed")
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._poked.wait()
                except TimeoutError:
                    continue
        finally:
            draining = list(self._draining.values())
            for task in draining:
                task.cancel()
            await asyncio.gather(*draining, return_exceptions=True)

    async def _begin(self) -> None:
        """Begin with every cluster in which something is due, and nobody is at it."""
        for config in await self.due():
            if config not in self._draining:
                self._draining[config] = asyncio.create_task(self._drain(config))

    async def due(self) -> list[str]:
        """The configs in whose clusters something is to be deleted now."""
        now = self._clock()
        return await self._database.read(lambda connection: object_store.due_configs(connection, now))

    async def _drain(self, config: str) -> None:
        """Delete all that is due in one cluster."""
        try:
            while await self.work(config):
                pass
        except Exception:  # noqa: BLE001 - the store, most likely; the next reconcile lets go of what was taken
            _log.exception("removal_failed")
        finally:
            del self._draining[config]
            # What has become due since it was looked for is not to wait.
            self.poke()

    async def settle(self, ids: Collection[str], seconds: float) -> None:
        """Wait until each of these objects is gone or its deletion has failed, at the most so long."""
        try:
            async with asyncio.timeout(seconds):
                while await self._database.read(lambda connection: object_store.untried(connection, ids)):
                    await self._wait_for_change()
        except TimeoutError:
            return

    async def _wait_for_change(self) -> None:
        """Wait until something was deleted here; another process may do it too, and tells nobody."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS / 4), self._settled:
                await self._settled.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Wait for what runs in the background."""
        if self._works:
            await asyncio.wait(self._works)

    async def work(self, config: str) -> bool:
        """Take some of what is due in a cluster and delete it. False where nothing was due."""
        taken: list[Doomed] = []

        def take(connection: sa.Connection) -> None:
            now = self._clock()
            taken[:] = object_store.claim(connection, config, self._process, now, now + _CLAIM, _AT_ONCE)
            self._working.update(doomed.object.id for doomed in taken)

        try:
            await self._journal.change(take)
            await self._checkpoint("remove.claimed")
            failures = await asyncio.gather(*map(self._remove, taken), return_exceptions=True)
        finally:
            # What failed in a way that could not be written down is taken again after the next reconcile.
            self._working.difference_update(doomed.object.id for doomed in taken)
        for failure in failures:
            if isinstance(failure, BaseException):
                _log.error("removal_failed", exc_info=failure)
        async with self._settled:
            self._settled.notify_all()
        return bool(taken)

    async def _remove(self, doomed: Doomed) -> None:
        try:
            gone = await self._delete(doomed.object)
        except KubevendError as error:
            await self._put_off(doomed, error)
            return
        if not gone:
            await self._put_off(doomed, _held(doomed.object))
            return
        await self._checkpoint("remove.deleted")
        await self._record(doomed)
        await self._checkpoint("remove.recorded")

    async def _delete(self, doomed: ClusterObject) -> bool:
        config = self._catalog.config(doomed.config)
        if config is None:
            raise FailedPrecondition("CONFIG_NOT_FOUND", f"{doomed.config} does not exist any more.")
        return await cluster.delete(self._clusters.of(config), doomed)

    async def _record(self, doomed: Doomed) -> None:
        """Write down that an object is gone, and with it the ends of the leases for which nothing else stands."""
        now, gone = self._clock(), doomed.object
        # Nobody has seen it made: whoever was about to make it may have died, and the request still be under way.
        again = now + _LATEST if not gone.uid and not doomed.late else None
        ended: list[Ended] = []

        def change(connection: sa.Connection) -> None:
            ended[:] = lease_ends.object_gone(connection, gone, now, again)

        await self._journal.commit(
            Entry(lambda refusal: event.ended(gone, ended) if ended and not refusal else None, change=change)
        )

    async def _put_off(self, doomed: Doomed, error: KubevendError) -> None:
        delay = min(self._longest_delay, _FIRST_DELAY * 2 ** min(doomed.attempts, _MOST_DOUBLINGS))
        # So that what failed together does not come again together.
        until = self._clock() + timedelta(seconds=delay * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
        _log.warning(
            "not_deleted",
            config=doomed.object.config,
            kind=doomed.object.kind,
            namespace=doomed.object.namespace,
            name=doomed.object.name,
            attempts=doomed.attempts + 1,
            reason=error.reason,
            error=error.message,
            next_attempt=until.isoformat(timespec="seconds"),
        )
        await self._journal.change(
            lambda connection: object_store.put_off(connection, doomed, (error.reason, error.message), until)
        )


def _held(doomed: ClusterObject) -> FailedPrecondition:
    where = f"{doomed.namespace}/{doomed.name}" if doomed.namespace else doomed.name
    return FailedPrecondition(
        "OBJECT_HELD",
        f"{doomed.kind} {where} is marked for deletion, but a finalizer holds it, and so its tokens work for up to a "
        "minute more, and what else it stands for until it is gone. Find out "
        f"whose it is (`kubectl get {doomed.kind.lower()} {doomed.name} --output=jsonpath={{.metadata.finalizers}}"
        f"{f' --namespace={doomed.namespace}' if doomed.namespace else ''}`) and have that take it away.",
        metadata={"kind": doomed.kind, "namespace": doomed.namespace, "name": doomed.name, "subject": doomed.config},
    )

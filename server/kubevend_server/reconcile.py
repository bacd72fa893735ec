"""Putting right what crashes, and others, have left: at the start, and from then on every so often.

- Issuances whose process died: their leases end as FAILED, and what was made for them is deleted.
- Deletions that a dead process had taken: others take them.
- Shared anchors on which no lease stands.
- ServiceAccounts, Roles and bindings in clusters that have this store's label, and that no lease knows: a restored or a
  lost store leaves such. Anchors cannot be listed, and one that no lease knows harms nobody: its tokens expire.
- Leases whose ServiceAccount, Role or binding somebody else has deleted: they end.
- Leases that ended long ago, and request ids whose window is over: they are forgotten.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from kubevend_server import ending, names
from kubevend_server.anchors import SharedAnchors
from kubevend_server.catalog import Catalog
from kubevend_server.clock import Clock
from kubevend_server.cluster import objects as cluster
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.objects import Found
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import Journal
from kubevend_server.kinds import RESOURCES, Kind
from kubevend_server.leases import ClusterObject
from kubevend_server.policy.name_template import PREFIX
from kubevend_server.removal import Remover
from kubevend_server.roles import ANY, Role
from kubevend_server.store import lease_ends
from kubevend_server.store import leases as lease_store
from kubevend_server.store import objects as object_store
from kubevend_server.store import replicas as replica_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.database import Database

_LONGEST_BEAT, _SHORTEST_BEAT = 10.0, 1.0
_BEATS_TO_DEATH = 4.5
_MOST_PURGED = 500
_AWAY = ("KUBERNETES_UNREACHABLE", "KUBERNETES_TIMED_OUT", "KUBERNETES_CONNECTION_LOST")
_LONGEST_LOOK = 300.0
"""Seconds, for one cluster."""

_MOST_STRAYS = 500
"""How many are taken at once, lest a cluster that makes them up fill the store."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """How to put things right.

    Attributes:
        instance: by which id the objects in clusters are known to be this store's.
        replica: this process's name among those that share the store.
        process: another one for each start of it.
        every: seconds.
        retention: for how long a lease is kept after its end.
        request_window: for how long a request id is kept.
        most_strays: how many objects that no lease knows may be deleted at once, as a share of all that are found.
    """

    instance: str
    replica: str
    process: str
    every: float
    retention: timedelta
    most_strays: float
    request_window: timedelta

    @property
    def beat(self) -> float:
        """How often a process says that it lives, in seconds: a reconcile finds the work of one that does not."""
        return min(_LONGEST_BEAT, max(_SHORTEST_BEAT, self.every / 6))

    @property
    def dead(self) -> timedelta:
        """After how long without a word it counts as dead."""
        return timedelta(seconds=_BEATS_TO_DEATH * self.beat)


class Presence:
    """Tells the other processes that share the store that this one lives."""

    def __init__(self, journal: Journal, order: Order, clock: Clock) -> None:
        self._journal = journal
        self._order = order
        self._clock = clock

    async def run(self) -> None:
        """Say it again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._order.beat)
            try:
                await self.beat()
            except sa.exc.SQLAlchemyError:
                _log.exception("presence_not_written")

    async def beat(self) -> None:
        """Say it once."""
        now = self._clock()
        await self._journal.change(
            lambda connection: replica_store.beat(connection, self._order.replica, self._order.process, now)
        )

    async def leave(self) -> None:
        """Say that it ends."""
        await self._journal.change(lambda connection: replica_store.leave(connection, self._order.process))


class Reconciler:
    """Puts things right."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        catalog: Catalog,
        clusters: Clusters,
        anchors: SharedAnchors,
        remover: Remover,
        in_flight: InFlight,
        order: Order,
        clock: Clock,
    ) -> None:
        self._database = database
        self._journal = journal
        self._catalog = catalog
        self._clusters = clusters
        self._anchors = anchors
        self._remover = remover
        self._in_flight = in_flight
        self._order = order
        self._clock = clock
        self._told: dict[str, str] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Put things right again and again, until cancelled."""
        try:
            while True:
                try:
                    for config in await self._look_at_store():
                        # One that takes long keeps nobody waiting but its own.
                        if config.name not in self._looking:
                            self._looking[config.name] = asyncio.create_task(self._look_by_itself(config))
                except Exception:  # noqa: BLE001 - whatever it is, all is looked at again next time
                    _log.exception("reconcile_failed")
                await asyncio.sleep(self._order.every)
        finally:
            for task in self._looking.values():
                task.cancel()
            await asyncio.gather(*self._looking.values(), return_exceptions=True)

    async def look(self) -> None:
        """Put things right once."""
        for config in await self._look_at_store():
            await self._look_at(config)

    async def _look_by_itself(self, config: Config) -> None:
        try:
            async with asyncio.timeout(_LONGEST_LOOK):
                await self._look_at(config)
        except Exception:  # noqa: BLE001 - whatever it is, all is looked at again next time
            _log.exception("reconcile_failed", config=config.name)
        finally:
            del self._looking[config.name]

    async def _look_at_store(self) -> list[Config]:
        """Put right what is in the store.

        Returns:
            The configs in whose clusters this process is to look.
        """
        now = self._clock()
        alive = await self._database.read(lambda connection: replica_store.alive(connection, now - self._order.dead))
        process = self._order.process
        # What this process itself does not know to be dead is left alone, however late its last sign of life is.
        living = {*alive, process}
        gone = await self._journal.change(lambda connection: self._clean_up(connection, living, now))
        self._anchors.forget(gone)
        self._remover.poke()
        # One of them is enough for what follows.
        if alive and alive[0] != process:
            return []
        await self._purge(lease_ends.purge, now - self._order.retention)
        await self._purge(request_store.purge, now - self._order.request_window)
        return self._catalog.configs()

    async def _purge(self, purge: Callable[[sa.Connection, datetime, int], int], before: datetime) -> None:
        """Forget what is older than a moment, in transactions for which nobody waits long."""
        purged = _MOST_PURGED
        while purged == _MOST_PURGED:
            purged = await self._journal.change(lambda connection: purge(connection, before, _MOST_PURGED))
            await asyncio.sleep(0)

    def _clean_up(self, connection: sa.Connection, living: set[str], now: datetime) -> Collection[str]:
        """End what nobody issues any more, let others delete what the dead had taken, and let deserted anchors go."""
        gone: set[str] = set()
        dead = lease_ends.abandoned(connection, living, self._in_flight.leases, self._order.process)
        for lease in lease_store.get_all(connection, dead):
            _log.warning("issuance_abandoned", lease=lease.name, role=lease.role, objects=len(lease.objects))
            # All of it may be there: nobody knows how far its process came.
            gone |= set(
                ending.fail(
                    connection, lease, lease.objects, "its issuance was interrupted", now, self._in_flight.anchors
                )
            )
        object_store.release(connection, living, self._order.process, self._remover.working, now)
        return gone | set(ending.remove_deserted(connection, now, self._in_flight.anchors))

    # What is in the clusters.

    async def _look_at(self, config: Config) -> None:
        """Hold what is in a cluster against what is in the store."""
        places = _places(role for role in self._catalog.roles() if role.config == config.name)
        if not places:
            return
        # Read before the cluster is, so that what is missing there is not just being made, or being deleted.
        standing = await self._database.read(lambda connection: object_store.standing(connection, config.name))
        known = await self._database.read(lambda connection: object_store.known(connection, config.name))
        found, looked_in = await self._find(config, places)
        # Before and after: what was listed may have been forgotten meanwhile, or only then have been thought of.
        known |= await self._database.read(lambda connection: object_store.known(connection, config.name))
        strays = [
            each
            for each in found
            # Anybody can put our label on what is theirs, but kubevend makes nothing by another name.
            if each.name.startswith(PREFIX)
            and (each.kind, each.namespace, each.name) not in known
            and not each.deleting
        ]
        if strays:
            await self._delete_strays(config, strays, len(found))
        there = {(each.kind, each.namespace, each.name) for each in found}
        missing = [
            each
            for each in standing
            if (each.kind, each.namespace, each.name) not in there
            and ((each.kind, each.namespace) in looked_in or (each.kind, "") in looked_in)
        ]
        if missing:
            await self._end_incomplete(missing)

    async def _find(
        self, config: Config, places: Sequence[tuple[Kind, str]]
    ) -> tuple[list[Found], set[tuple[Kind, str]]]:
        """What of ours is in these places, and in which of them one could look."""
        found: list[Found] = []
        looked_in: set[tuple[Kind, str]] = set()
        problem = ""
        for kind, namespace in places:
            try:
                connection = self._clusters.of(config)
                found += await cluster.list_made(connection, kind, namespace, self._order.instance)
            except KubevendError as error:
                problem = problem or error.message
                if error.reason in _AWAY:
                    break  # as it would be in each of the other places, each time for as long as a request may take
            else:
                looked_in.add((kind, namespace))
        if self._is_news(config.name, problem):
            _log.error("strays_not_looked_for", config=config.name, error=problem)
        return found, looked_in

    async def _delete_strays(self, config: Config, strays: Sequence[Found], of: int) -> None:
        most = int(self._order.most_strays * of)
        problem = ""
        if len(strays) > most:
            problem = (
                f"{len(strays)} of {of} objects in {config.name} with the label of this instance "
                f"({self._order.instance}) belong to no lease in this store; leases.most_strays lets {most} be deleted "
                "at once, so none was. Is it the right store? If so, set leases.most_strays to 1 until they are gone."
            )
        if self._is_news(f"{config.name} strays", problem):
            _log.error("too_many_strays", config=config.name, error=problem)
        if problem:
            return
        now = self._clock()
        doomed = [
            ClusterObject(names.new_id(now), config.name, each.kind, each.namespace, each.name, uid=each.uid)
            for each in strays[:_MOST_STRAYS]
        ]
        for each in doomed:
            _log.warning("stray_found", config=config.name, kind=each.kind, namespace=each.namespace, name=each.name)
        await self._journal.change(lambda connection: object_store.doom_made(connection, doomed, now))
        self._remover.poke()

    async def _end_incomplete(self, missing: Sequence[ClusterObject]) -> None:
        """End leases that lack something which somebody else has deleted."""
        by_lease: dict[str, ClusterObject] = {each.lease: each for each in missing}
        now = self._clock()

        def change(connection: sa.Connection) -> None:
            for lease, each in by_lease.items():
                cause = f"{each.kind} {each.name} was deleted in the cluster by somebody else"
                lease_ends.begin_end(connection, [lease], "REVOKED", cause, now)

        for lease, each in by_lease.items():
            _log.warning("lease_incomplete", lease=lease, kind=each.kind, namespace=each.namespace, name=each.name)
        await self._journal.change(change)
        self._remover.poke()

    def _is_news(self, about: str, problem: str) -> bool:
        """Whether a problem is another one than the last time; empty for none."""
        before, self._told[about] = self._told.get(about, ""), problem
        return bool(problem) and problem != before


def _places(roles: Iterable[Role]) -> list[tuple[Kind, str]]:
    """Where objects of these roles can be: kinds, each with a namespace, or none for all and for what is in none."""
    namespaces: dict[Kind, set[str]] = defaultdict(set)
    for role in roles:
        if not role.makes_accounts:
            continue
        everywhere = ANY in role.allowed_namespaces or role.allowed_namespace_selector is not None
        where = {""} if everywhere else set(role.allowed_namespaces)
        namespaces["ServiceAccount"] |= where
        namespaces["RoleBinding"] |= where
        if role.cluster_wide_allowed:
            namespaces["ClusterRoleBinding"] |= {""}
        if role.generated_role is not None:
            kind = role.generated_role.kind
            namespaces[kind] |= {RESOURCES[kind].place(place) for place in where}
    return [(kind, place) for kind, found in namespaces.items() for place in ([""] if "" in found else sorted(found))]

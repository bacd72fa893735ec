"""What ends leases, over a store of a test's own, a clock that the test moves, and a cluster that is a dictionary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa
from multidict import CIMultiDict

from kubevend_server.anchors import SharedAnchors
from kubevend_server.audit.log import AuditLog
from kubevend_server.catalog import Catalog
from kubevend_server.cluster.connection import Answer, Connection, Request
from kubevend_server.cluster.failures import Attempt
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError
from kubevend_server.expiry import Expiry
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import Journal, read_head
from kubevend_server.leases import ClusterObject, Lease
from kubevend_server.reconcile import Order, Reconciler
from kubevend_server.removal import Remover
from kubevend_server.roles import Role
from kubevend_server.store import leases as lease_store
from kubevend_server.store import replicas
from tests.unit.builders import AUDIT_KEY, NOW, config
from tests.unit.world import FakeClusters, FakeConnection, migrated

INSTANCE, ME, OTHER = "world", "main/1", "other/1"
AWAY = "configs/away"
"""The config of a cluster that does not answer."""


class DictCluster(FakeConnection):
    """Objects by path; `fails` is what every request meets, `late` what appears once a deletion has not found it."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__({})
        self.objects: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.was_asked = asyncio.Event()
        self.fails: KubevendError | None = None

    def put(self, path: str, uid: str = "u", instance: str = INSTANCE) -> None:
        """Let an object be there."""
        name = path.rpartition("/")[2]
        metadata = {"name": name, "uid": uid, "labels": {"kubevend.dev/instance": instance}}
        if "/namespaces/" in path:
            metadata["namespace"] = path.split("/namespaces/")[1].split("/", maxsplit=1)[0]
        self.objects[path] = metadata

    async def call(self, request: Request, attempt: Attempt, judged: Collection[int] = ()) -> Answer:
        """Answer."""
        del attempt, judged
        self.was_asked.set()
        if self.fails is not None:
            raise self.fails
        if request.verb == "GET":
            return self._list(request.path)
        self.deleted.append(request.path)
        if self.objects.pop(request.path, None) is None:
            kind = request.path.split("/")[-2]
            return _said(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "details": {"kind": kind}})
        return _said(200, {"kind": "Status", "status": "Success"})

    def _list(self, path: str) -> Answer:
        parts = urlsplit(path)
        (selector,) = parse_qs(parts.query)["labelSelector"]
        instance = selector.partition("=")[2]
        items = [
            {"metadata": metadata}
            for place, metadata in self.objects.items()
            if place.startswith(f"{parts.path}/") and metadata["labels"]["kubevend.dev/instance"] == instance
        ]
        return _said(200, {"kind": "PartialObjectMetadataList", "metadata": {}, "items": items})


def _said(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status, CIMultiDict(), json.dumps(body).encode())


class _Away(DictCluster):
    """A cluster that does not answer."""

    async def call(self, request: Request, attempt: Attempt, judged: Collection[int] = ()) -> Answer:
        """Wait until given up."""
        await asyncio.Event().wait()
        return await super().call(request, attempt, judged)


class _Clusters(FakeClusters):
    """One cluster that is there, and one that is away."""

    def connect(self, config: Config, *, anonymous: bool = False) -> Connection:
        """The one or the other."""
        return _Away() if config.name == AWAY else super().connect(config, anonymous=anonymous)


class Endings:
    """All that ends leases, as `app` puts it together."""

    def __init__(
        self, folder: Path, *roles: Role, most_strays: float = 0.5, audit_log: type[AuditLog] = AuditLog
    ) -> None:
        """Build it."""
        self.now = NOW
        self.database = migrated(folder / "endings.sqlite")
        self.file = folder / "endings.jsonl"
        self.audit = audit_log(self.file, AUDIT_KEY, self.database.read_now(read_head), self.clock)
        self.journal = Journal(self.database, self.audit)
        self.cluster = DictCluster()
        clusters = _Clusters(self.cluster, ConfigRules("", {}))
        catalog = Catalog([config(), config(name=AWAY)], roles)
        self.in_flight = InFlight()
        self.remover = Remover(self.database, self.journal, catalog, clusters, ME, 60.0, self.clock)
        self.anchors = SharedAnchors(self.database, self.journal, self.remover, self.in_flight, self.clock)
        self.expiry = Expiry(self.database, self.journal, self.anchors, self.remover, self.in_flight, self.clock)
        order = Order(INSTANCE, "main", ME, 60.0, timedelta(days=30), most_strays, timedelta(seconds=600))
        self.reconciler = Reconciler(
            self.database,
            self.journal,
            catalog,
            clusters,
            self.anchors,
            self.remover,
            self.in_flight,
            order,
            self.clock,
        )

    def clock(self) -> datetime:
        """The time, as the test has set it."""
        return self.now

    def add(self, *leases: Lease) -> None:
        """Write leases down."""
        with self.database.writer.begin() as connection:
            for lease in leases:
                for table, row in lease_store.rows(lease):
                    connection.execute(sa.insert(table).values(row))

    def do(self, change: Any) -> Any:
        """Make a change, as another process may."""
        with self.database.writer.begin() as connection:
            return change(connection)

    def beat(self, process: str) -> None:
        """A process says that it lives."""
        self.do(lambda connection: replicas.beat(connection, process.partition("/")[0], process, self.now))

    def lease(self, name: str) -> Lease:
        """A lease as it is now."""
        found = self.database.read_now(lambda connection: lease_store.get(connection, name))
        assert found is not None
        return found

    def objects(self) -> list[dict[str, Any]]:
        """What is written down of objects."""
        with self.database.writer.begin() as connection:
            rows = connection.execute(sa.text("SELECT * FROM objects ORDER BY id")).all()
        return [row._asdict() for row in rows]

    def events(self) -> list[dict[str, Any]]:
        """The audit log's lines."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    async def remove(self) -> None:
        """Delete what is due now."""
        while due := await self.remover.due():
            for each in due:
                await self.remover.work(each)

    def close(self) -> None:
        """Close files."""
        self.audit.close()
        self.database.close()


def path_of(made: ClusterObject) -> str:
    """Where an object of the core group is."""
    plural = {"Secret": "secrets", "ServiceAccount": "serviceaccounts"}[made.kind]
    return f"/api/v1/namespaces/{made.namespace}/{plural}/{made.name}"

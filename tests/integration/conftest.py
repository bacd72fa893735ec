"""The real API server, one for the session, and kubevend servers beside it."""

from __future__ import annotations

import contextlib
import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY, KubevendServer
from kubevend.v1 import config_service_pb2
from kubevend_server.store.database import Database
from tests.support.client import Client
from tests.support.clusters import install, make_namespace
from tests.support.evidence import EVIDENCE


@pytest.fixture(scope="session")
def cluster() -> Iterator[DevCluster]:
    """A real etcd and kube-apiserver, with kubevend's own ServiceAccount."""
    with DevCluster.start() as started:
        install(started)
        yield started


@pytest.fixture(scope="session")
def capped_cluster() -> Iterator[DevCluster]:
    """Another cluster: EC signing key, and no token for more than an hour."""
    with DevCluster.start(max_token_expiration=timedelta(hours=1), signing_key="ec") as started:
        install(started)
        yield started


@pytest.fixture
def namespace(cluster: DevCluster) -> str:
    """A namespace of the test's own, with ServiceAccount demo."""
    name = f"test-{secrets.token_hex(4)}"
    make_namespace(cluster, name)
    return name


def config_of(cluster: DevCluster, **fields: Any) -> config_service_pb2.Config:
    """A config for a cluster, with a token of kubevend's own ServiceAccount."""
    defaults = {"kubernetes_host": cluster.server, "kubernetes_ca_cert": cluster.ca_file.read_text()}
    if "token_file" not in fields:
        defaults["service_account_jwt"] = cluster.token("kubevend", "kubevend")
    return config_service_pb2.Config(**{**defaults, **fields})


@dataclass
class Vending:
    """A kubevend server of a test's own, and its bootstrap admin."""

    server: KubevendServer
    admin: Client
    clients: list[Client] = field(default_factory=list)

    def client(self, bearer: str = "") -> Client:
        """Another caller."""
        client = Client(self.server.address, self.server.folder / "ca.crt", bearer)
        self.clients.append(client)
        return client

    def restart(self) -> None:
        """Start the server again on what it left behind; the admin is connected anew."""
        self.server.start()
        tokens = self.admin.tokens
        self.admin = self.client(self.server.admin_token)
        self.admin.tokens = tokens

    def add_config(self, cluster: DevCluster, config_id: str = "default", **fields: Any) -> None:
        """Make a config for a cluster."""
        request = config_service_pb2.CreateConfigRequest(config_id=config_id, config=config_of(cluster, **fields))
        self.admin.call(self.admin.configs.CreateConfig, request)

    def events(self, **narrowed: str) -> list[dict[str, Any]]:
        """The audit events, those whose fields are as given."""
        return [e for e in self.server.events() if all(e.get(key) == value for key, value in narrowed.items())]

    def events_of(self, act: Callable[[], object], **narrowed: str) -> list[dict[str, Any]]:
        """The audit events that calls leave, those whose fields are as given, whatever was there before."""
        before = len(self.events(**narrowed))
        act()
        return self.events(**narrowed)[before:]


Start = Callable[..., Vending]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store as a first start leaves it: the migrations take a second, and the first run's tests wait for them."""
    file = tmp_path_factory.mktemp("store") / "empty.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file.read_bytes()


@contextlib.contextmanager
def starting(root: Path, empty_store: bytes) -> Iterator[Start]:
    """Start kubevend servers in folders of their own; in the end stop them, and look for tokens in what they wrote."""
    started: list[Vending] = []

    def begin(
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        policies: str = BOOTSTRAP_POLICY,
        environment: Mapping[str, str] | None = None,
        folder: str = "kubevend",
        *,
        fresh: bool = False,
        command: tuple[str, ...] = (),
    ) -> Vending:
        server = KubevendServer(
            root / folder,
            overrides={"metrics": {"address": "127.0.0.1:0"}, **(overrides or {})},
            policies=policies,
            environment=environment,
            command=command,
        )
        if not fresh and not server.store_file.exists():
            server.store_file.touch(0o600)
            server.store_file.write_bytes(empty_store)
        server.start()
        vending = Vending(server, Client(server.address, server.folder / "ca.crt", server.admin_token))
        started.append(vending)
        return vending

    yield begin
    for vending in started:
        for client in [vending.admin, *vending.clients]:
            client.close()
        note_metrics(vending)
        vending.server.stop()
        # While the test is still at hand that did it.
        EVIDENCE.note_token(vending.server.admin_token)
        EVIDENCE.folders[vending.server.folder] = None
        assert list(EVIDENCE.leaks_in(vending.server.folder)) == []


@pytest.fixture
def start(tmp_path: Path, empty_store: bytes) -> Iterator[Start]:
    """Starts kubevend servers of a test's own."""
    with starting(tmp_path, empty_store) as begin:
        yield begin


@pytest.fixture(scope="module")
def start_for_all(tmp_path_factory: pytest.TempPathFactory, empty_store: bytes) -> Iterator[Start]:
    """Starts kubevend servers that the tests of a module share."""
    with starting(tmp_path_factory.mktemp("shared"), empty_store) as begin:
        yield begin


def metrics_port(vending: Vending) -> int:
    """The port of the metrics, from the process log; 0 where there are none."""
    ports = [
        int(json.loads(line)["port"])
        for line in vending.server.log_file.read_text().splitlines()
        if '"event": "metrics"' in line
    ]
    return ports[-1] if ports else 0


def note_metrics(vending: Vending) -> None:
    """Note what a server that still runs tells as metrics."""
    process, port = vending.server.process, metrics_port(vending)
    if process is not None and process.poll() is None and port:
        url = f"http://127.0.0.1:{port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                EVIDENCE.told.append(("the metrics", answer.read()))
        except OSError:
            # After a test that failed a server may be stopping. One that is not must answer.
            process.wait(timeout=30)


@pytest.fixture
def vending(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A kubevend server with configs/default for the cluster, and roles/ci for the test's namespace."""
    begun = start()
    begun.add_config(cluster)
    begun.admin.create_role(allowed_namespaces=[namespace])
    return begun

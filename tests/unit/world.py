"""A server without its sockets, for tests that want a call's whole way."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import aio
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from kubevend_server.anchors import SharedAnchors
from kubevend_server.audit.log import AuditLog
from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.authentication.bearer import BearerTokens
from kubevend_server.authentication.forwarded import Proxies
from kubevend_server.authentication.service_accounts import CallerCluster, ServiceAccounts
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.authorization import Authorizer
from kubevend_server.behaviors import StreamBehavior, behavior, stream_behavior
from kubevend_server.calls import Method
from kubevend_server.catalog import Catalog
from kubevend_server.checks import Checker
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.connection import Answer, Connection, Request, Transport
from kubevend_server.cluster.credentials import Presented, Stored
from kubevend_server.cluster.failures import Attempt
from kubevend_server.cluster.namespaces import NamespaceWatches
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.encryption import Keyring
from kubevend_server.errors import KubevendError
from kubevend_server.gate import Gate
from kubevend_server.in_flight import InFlight
from kubevend_server.interceptors import Patience, Recorder, chain
from kubevend_server.issuance import Issuance
from kubevend_server.journal import Journal, read_head
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.making import Maker
from kubevend_server.metrics import Metrics
from kubevend_server.namespaces import Namespaces
from kubevend_server.paging import PageTokens
from kubevend_server.policy.access import AccessPolicy
from kubevend_server.policy.policies import Policies
from kubevend_server.policy_folder import PolicySource
from kubevend_server.promises import Promises
from kubevend_server.refusals import Refusals
from kubevend_server.removal import Remover
from kubevend_server.request_ids import RequestIds
from kubevend_server.revocation import Revocation
from kubevend_server.services import Service
from kubevend_server.services.configs import ConfigService
from kubevend_server.services.identity import IdentityService
from kubevend_server.services.issue import IssueService
from kubevend_server.services.leases import LeaseService
from kubevend_server.services.roles import RoleService
from kubevend_server.settings import LimitSettings
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from kubevend_server.streams import Streams
from kubevend_server.turns import Turns
from tests.unit.builders import ADMIN_TOKEN, AUDIT_KEY, NOW, PERMIT_ALL, clock, limits, minted

M = TypeVar("M", bound=Message)

HOST = "https://10.0.0.1:6443"


@functools.cache
def _empty_database() -> bytes:
    """A database file as the migrations leave it; they take a second, so they run once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.sqlite"
        database = Database(f"sqlite:///{file}")
        database.migrate()
        database.close()
        return file.read_bytes()


def migrated(file: Path) -> Database:
    """An open database in this file, with all tables."""
    if not file.exists():
        file.write_bytes(_empty_database())
    return Database(f"sqlite:///{file}")


class FakeConnection(Connection):
    """A cluster that answers what the test has put in: a body, or an error.

    Attributes:
        binds: whether tokens that are to be bound to a Secret are.
    """

    def __init__(self, *answers: Mapping[str, Any] | bytes | KubevendError) -> None:
        """Take the answers, in their order; the last one is given again and again."""
        self.endpoint = Endpoint("configs/default", HOST)
        self.credential = Stored("the stored token", Presented("token"))
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.retired = False
        self.binds = True

    async def call(self, request: Request, attempt: Attempt, judged: Collection[int] = ()) -> Answer:
        """Answer."""
        del judged
        self.asked.append((request.path, request.body or {}))
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KubevendError):
            raise answer
        headers = CIMultiDict({"Audit-Id": attempt.audit_id})
        bound = (request.body or {}).get("spec", {}).get("boundObjectRef") if self.binds else None
        if bound is not None and isinstance(answer, Mapping):
            secret = {"name": bound["name"], "uid": bound.get("uid", "u")}
            answer = token_reply(minted(**{"kubernetes.io": {"secret": secret}}))
        return Answer(200, headers, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    async def get(self, path: str, attempt: Attempt) -> Answer:
        """Answer."""
        return await self.call(Request("GET", path), attempt)

    async def retire(self) -> None:
        """Remember it."""
        self.retired = True


def token_reply(token: str = "", seconds: int = 3600) -> dict[str, Any]:
    """What a cluster answers to a TokenRequest."""
    return {"spec": {"expirationSeconds": seconds}, "status": {"token": token or minted()}}


class FakeClusters(Clusters):
    """Clusters that are all the same fake one."""

    def __init__(self, connection: FakeConnection, rules: ConfigRules) -> None:
        """Take it."""
        super().__init__(OwnCluster(environ={}), rules, Transport(1, 1, 1, trust_env=False))
        self.connection = connection

    def connect(self, config: Config, *, anonymous: bool = False) -> Connection:
        """The fake."""
        del config, anonymous
        return self.connection


class Refused(Exception):
    """A call ended with a status that is not OK."""

    def __init__(self, status: status_pb2.Status) -> None:
        """Take the status."""
        super().__init__(status.message)
        self.status = status

    def detail(self, kind: type[M]) -> M:
        """The detail of this kind, which must be there once."""
        (found,) = [any_ for any_ in self.status.details if any_.Is(kind.DESCRIPTOR)]
        detail = kind()
        assert found.Unpack(detail)
        return detail


class FakeContext:
    """gRPC's side of a call, as far as `behavior` uses it."""

    def __init__(self, metadata: Mapping[str, str | bytes], peer: str) -> None:
        """Take the caller's metadata and address."""
        self._metadata = tuple(metadata.items())
        self._peer = peer
        self.written: asyncio.Queue[bytes] = asyncio.Queue()

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller sent."""
        return self._metadata

    def peer(self) -> str:
        """From where it called."""
        return self._peer

    async def write(self, payload: bytes) -> None:
        """Take an answer of a stream."""
        await self.written.put(payload)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call."""
        details = dict(status.trailing_metadata or ())["grpc-status-details-bin"]
        raise Refused(status_pb2.Status.FromString(cast("bytes", details)))


def context(
    metadata: Mapping[str, str | bytes] | None = None, peer: str = "ipv4:10.0.0.7:51234"
) -> aio.ServicerContext[bytes, bytes]:
    """A fake context, in the type that `behavior` takes."""
    return cast("aio.ServicerContext[bytes, bytes]", FakeContext(metadata or {}, peer))


async def sending(*payloads: bytes) -> AsyncIterator[bytes]:
    """The messages of a request, as gRPC hands them on: one, from a caller who keeps to the protos."""
    for payload in payloads:
        yield payload


class World:
    """Everything that a call passes through, as `app` puts it together, over files in one folder."""

    def __init__(
        self,
        folder: Path,
        policies: str = PERMIT_ALL,
        connection: FakeConnection | None = None,
        credential_folders: Mapping[str, tuple[str, ...]] | None = None,
        own_host: str = "",
        caller_clusters: tuple[CallerCluster, ...] = (),
        audit_log: Callable[..., AuditLog] = AuditLog,
        clusters: Clusters | None = None,
        anchor_patience: float = 20.0,
        limited: LimitSettings | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = clock,
    ) -> None:
        """Build it."""
        self.folder = folder
        self.keyring = Keyring({"k1": b"1" * 32})
        self.database = migrated(folder / "world.sqlite")
        self.config_store = ConfigStore(self.keyring)
        self.catalog = Catalog(
            self.database.read_now(self.config_store.all), self.database.read_now(role_store.all_roles)
        )
        self.audit_file = folder / "world.jsonl"
        self.audit = audit_log(self.audit_file, AUDIT_KEY, self.database.read_now(read_head), clock)
        self.journal = Journal(self.database, self.audit)
        self.policies = PolicySource(Policies(AccessPolicy(policies)), NOW)
        authorizer = Authorizer(self.policies, self.catalog, clock)
        self.connection = connection or FakeConnection(token_reply())
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.recorder = Recorder(self.journal, metrics)
        limited = limited or LimitSettings()
        proxies = Proxies([])
        gate = Gate(limited, metrics, monotonic, proxies.carries_others)
        turns = Turns(limited.issuing_per_cluster, monotonic)
        self.refusals = Refusals(self.journal, metrics)
        patience = Patience(limited.request_seconds, limited.call_seconds)
        bearer_tokens = BearerTokens(
            admin_digest=hashlib.sha256(ADMIN_TOKEN.encode()).digest(),
            service_accounts=ServiceAccounts(caller_clusters, "kubevend", remember=10),
            issuers=(),
            clock=clock,
        )
        authenticator = Authenticator(bearer_tokens, Workloads({}, clock), proxies)
        self.interceptors = chain(authenticator, self.policies, self.recorder, gate, self.refusals, patience)
        tokens = PageTokens(self.keyring)
        rules = ConfigRules(own_host, credential_folders or {})
        clusters = clusters or FakeClusters(self.connection, rules)
        checker = Checker(clusters, caller_clusters, limits(), clock)
        self.in_flight = InFlight()
        self.remover = Remover(self.database, self.journal, self.catalog, clusters, "main/1", 60.0, clock)
        self.anchors = SharedAnchors(
            self.database, self.journal, self.remover, self.in_flight, clock, patience=anchor_patience
        )
        window, dead = timedelta(seconds=600), timedelta(seconds=45)
        self.request_ids = RequestIds(self.database, self.in_flight, "main/1", dead, window, clock)
        issuance = Issuance(
            self.catalog,
            authorizer,
            clusters,
            Namespaces(self.catalog, NamespaceWatches(clusters.connect, time.monotonic), time.monotonic),
            self.journal,
            self.anchors,
            Maker(self.journal, "world", "main/1"),
            self.remover,
            self.in_flight,
            self.request_ids,
            gate,
            turns,
            limits(),
            clock,
        )
        self.feed = LeaseFeed(self.database, clock)
        revocation = Revocation(self.database, self.journal, authorizer, self.anchors, self.remover, self.feed, clock)
        self.services: list[Service] = [
            ConfigService(self.catalog, authorizer, tokens, self.config_store, rules, clusters, checker, clock),
            RoleService(self.catalog, authorizer, tokens, Promises(self.catalog, clusters), limits(), clock),
            IssueService(issuance, self.feed, 0.67, clock),
            LeaseService(self.database, authorizer, tokens, revocation, self.feed, clock),
            IdentityService(authorizer),
        ]
        self.streams = Streams(1000)

    async def call(
        self, request: Message, metadata: Mapping[str, str | bytes] | None = None, peer: str = "ipv4:10.0.0.7:51234"
    ) -> Any:
        """Call the method that takes this request, as the bootstrap admin unless the metadata say otherwise.

        Raises:
            Refused: it did not end well.
        """
        name = type(request).__name__.removesuffix("Request")
        return await self.send(name, request.SerializeToString(), metadata, peer)

    async def send(
        self,
        name: str,
        payload: bytes,
        metadata: Mapping[str, str | bytes] | None = None,
        peer: str = "ipv4:10.0.0.7:51234",
    ) -> Any:
        """Call a method with any bytes. Of a stream the first answer counts, after which the caller leaves."""
        if metadata is None:
            metadata = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        service = next(s for s in self.services if name in s.handlers() or name in s.openers())
        described = descriptor_pool.Default().FindServiceByName(service.name).FindMethodByName(name)
        request = message_factory.GetMessageClass(described.input_type)
        method = Method(
            service.name,
            name,
            request,
            reads=name.startswith(("Get", "List", "Watch", "WhoAmI")),
            streams=described.server_streaming,
        )
        shown = FakeContext(metadata, peer)
        if described.server_streaming:
            opener = service.openers()[name]
            reply = await self._first(stream_behavior(method, opener, self.interceptors, self.streams), payload, shown)
        else:
            behave = behavior(method, service.handlers()[name], self.interceptors)
            reply = await behave(sending(payload), cast("aio.ServicerContext[bytes, bytes]", shown))
        return message_factory.GetMessageClass(described.output_type).FromString(reply)

    async def _first(self, behave: StreamBehavior, payload: bytes, shown: FakeContext) -> bytes:
        """The first answer of a stream, whose caller then leaves."""
        stream = asyncio.ensure_future(behave(sending(payload), cast("aio.ServicerContext[bytes, bytes]", shown)))
        answer = asyncio.create_task(shown.written.get())
        await asyncio.wait([stream, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await stream
            raise AssertionError("The stream has ended without an answer.")
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        return answer.result()

    def lines(self) -> list[dict[str, Any]]:
        """The audit log's lines."""
        return [json.loads(line) for line in self.audit_file.read_text().split("\n") if line]

    def close(self) -> None:
        """Close files."""
        self.audit.close()
        self.database.close()

"""The whole program, built top to bottom: read this first."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from dataclasses import replace
from datetime import timedelta
from http.server import HTTPServer
from pathlib import Path
from threading import Thread

import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server

from kubevend_server.anchors import SharedAnchors
from kubevend_server.asking_again import AskingAgain
from kubevend_server.audit.log import AuditLog
from kubevend_server.authentication.admin import read_admin_digest
from kubevend_server.authentication.authenticator import Authenticator
from kubevend_server.authentication.bearer import BearerTokens
from kubevend_server.authentication.service_accounts import ServiceAccounts
from kubevend_server.authentication.workloads import Workloads
from kubevend_server.authorization import Authorizer
from kubevend_server.catalog import Catalog
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.checks import Checker
from kubevend_server.clock import Clock, utc_now
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.namespaces import NamespaceWatches
from kubevend_server.config_rules import ConfigRules
from kubevend_server.doors import Doors
from kubevend_server.encryption import Keyring, read_keys, read_one_key
from kubevend_server.expiry import Expiry
from kubevend_server.gate import Gate
from kubevend_server.health import make_health
from kubevend_server.in_flight import InFlight
from kubevend_server.interceptors import Patience, Recorder, chain
from kubevend_server.issuance import Issuance
from kubevend_server.journal import Journal, read_head
from kubevend_server.keeping import Keepers
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.making import Maker
from kubevend_server.metrics import IssuerCollector, LeaseCollector, Metrics, PolicyCollector, count_all
from kubevend_server.namespaces import Namespaces
from kubevend_server.paging import PageTokens
from kubevend_server.permissions import AT_ONCE
from kubevend_server.policy_folder import PolicyReload, PolicySource, described, load_folder
from kubevend_server.promises import Promises
from kubevend_server.reconcile import Order, Presence, Reconciler
from kubevend_server.refresh import CatalogRefresh
from kubevend_server.refusals import Refusals
from kubevend_server.removal import Remover
from kubevend_server.request_ids import RequestIds
from kubevend_server.revocation import Revocation
from kubevend_server.rotation import StoreKeyRotation
from kubevend_server.services import Service
from kubevend_server.services.configs import ConfigService
from kubevend_server.services.identity import IdentityService
from kubevend_server.services.issue import IssueService
from kubevend_server.services.leases import LeaseService
from kubevend_server.services.roles import RoleService
from kubevend_server.settings import Settings
from kubevend_server.store import replicas as replica_store
from kubevend_server.store import roles as role_store
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from kubevend_server.streams import Streams
from kubevend_server.tls import TlsFiles
from kubevend_server.transport import make_room, transport_options
from kubevend_server.turns import Turns
from kubevend_server.wiring import (
    connect_caller_clusters,
    make_doors,
    make_issuers,
    make_limits,
    make_proxies,
    make_transport,
    read_bundles,
    read_identities,
)

_log = structlog.get_logger()


async def serve(  # noqa: PLR0915 - the whole program, top to bottom, is what this function is for
    settings: Settings, clock: Clock = utc_now, checkpoint: Checkpoint = pass_by
) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        settings: how.
        clock: the time of day.
        checkpoint: told of each step of a lease's life, for tests that let the process die there.

    Raises:
        ValueError, OSError: something that the server needs cannot be used; the message says what.
        RuntimeError: what runs beside the calls has failed, and the server has stopped.
    """
    # The store, and what it remembers.
    key_file = Path(settings.store.key_file)
    keyring = Keyring(read_keys(key_file))
    database = Database(settings.store.url)
    database.migrate()
    config_store = ConfigStore(keyring)
    catalog = Catalog(database.read_now(config_store.all), database.read_now(role_store.all_roles))

    # The audit log, which goes on where the store knows it to have been.
    audit_key = read_one_key(Path(settings.audit.key_file))
    audit = _open_audit_log(settings, audit_key, database, clock)
    journal = Journal(database, audit, replica=settings.instance.replica)
    rotation = StoreKeyRotation(key_file, keyring, journal, config_store, catalog)

    # Who may do what.
    policy_folder = Path(settings.policy.folder)
    policies, policy_version = load_folder(policy_folder)
    policy_source = PolicySource(policies, clock())
    _log.info("policies_loaded", folder=str(policy_folder), **described(policies))
    authorizer = Authorizer(policy_source, catalog, clock)
    limits = make_limits(settings)

    # The clusters: those that issue, and those whose ServiceAccounts may call; and the issuers whose subjects may.
    own = OwnCluster(Path(settings.kubernetes.service_account_folder))
    transport = make_transport(settings)
    rules = ConfigRules(own.host, settings.kubernetes.credential_folders)
    clusters = Clusters(own, rules, transport)
    caller_clusters = connect_caller_clusters(settings, own, transport)
    issuers = make_issuers(settings, clock)
    bearer_tokens = BearerTokens(
        admin_digest=read_admin_digest(Path(admin_file)) if (admin_file := settings.callers.admin_token_file) else b"",
        service_accounts=ServiceAccounts(caller_clusters, settings.callers.audience, settings.callers.remember_seconds),
        issuers=issuers,
        clock=clock,
    )
    bundles = read_bundles(settings)
    proxies = make_proxies(settings)
    authenticator = Authenticator(bearer_tokens, Workloads(bundles, clock), proxies)

    refresh = CatalogRefresh(database, config_store, catalog, clusters)

    # How leases come to their end.
    order = await _take_place(settings, journal)
    in_flight = InFlight()
    remover = Remover(database, journal, catalog, clusters, order.process, order.every, clock, checkpoint)
    anchors = SharedAnchors(database, journal, remover, in_flight, clock)
    feed = LeaseFeed(database, clock)
    expiry = Expiry(database, journal, anchors, remover, in_flight, clock, checkpoint)
    reconciler = Reconciler(database, journal, catalog, clusters, anchors, remover, in_flight, order, clock)
    presence = Presence(journal, order, clock)
    await presence.beat()

    # What keeps out calls that are too many, and lets callers take turns.
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    gate = Gate(settings.limits, metrics, time.monotonic, proxies.carries_others)
    turns = Turns(settings.limits.issuing_per_cluster, time.monotonic)
    metrics.waiting.set_function(lambda: turns.waiting)
    refusals = Refusals(journal, metrics)

    # The services, and what every call passes through.
    page_tokens = PageTokens(keyring)
    # Checks have connections of their own, lest they take those of issuances.
    checking = Clusters(own, rules, replace(transport, max_connections=AT_ONCE))
    checker = Checker(checking, caller_clusters, limits, clock)
    watches = NamespaceWatches(clusters.connect, time.monotonic)
    namespaces = Namespaces(catalog, watches, time.monotonic)
    request_ids = RequestIds(database, in_flight, order.process, order.dead, order.request_window, clock)
    maker = Maker(journal, order.instance, order.process, checkpoint)
    issuance = Issuance(
        catalog,
        authorizer,
        clusters,
        namespaces,
        journal,
        anchors,
        maker,
        remover,
        in_flight,
        request_ids,
        gate,
        turns,
        limits,
        clock,
        checkpoint,
    )
    revocation = Revocation(database, journal, authorizer, anchors, remover, feed, clock, checkpoint)
    services: list[Service] = [
        ConfigService(catalog, authorizer, page_tokens, config_store, rules, clusters, checker, clock),
        RoleService(catalog, authorizer, page_tokens, Promises(catalog, clusters), limits, clock),
        IssueService(issuance, feed, settings.issuance.renew_after, clock),
        LeaseService(database, authorizer, page_tokens, revocation, feed, clock),
        IdentityService(authorizer),
    ]
    streams = Streams(settings.limits.streams_per_caller)
    metrics.streams.set_function(lambda: len(streams))
    recorder = Recorder(journal, metrics, checkpoint)
    health = await make_health([service.name for service in services])
    identities = read_identities(settings)
    tls_files = TlsFiles(list(dict.fromkeys(identities.values())), list(bundles.values()), metrics.certificate, clock)
    patience = Patience(settings.limits.request_seconds, settings.limits.call_seconds)
    interceptors = chain(authenticator, policy_source, recorder, gate, refusals, patience)
    options = transport_options(settings.limits)
    doors = Doors(make_doors(settings, identities, bundles), services, interceptors, health, streams, options)
    reload = PolicyReload(policy_folder, policy_source, policy_version, clock, health.tell_policies)

    # Open the doors, and wait.
    registry.register(IssuerCollector([issuer.keys for issuer in issuers]))
    registry.register(LeaseCollector(lambda: database.read_now(lambda connection: count_all(connection, clock()))))
    registry.register(PolicyCollector(policy_source))
    make_room(settings.limits.connections)
    metrics_server = _serve_metrics(settings.metrics.address, registry)
    port, *_ = await doors.open()
    _log.info("serving", address=settings.listener.address, port=port, tls=not settings.listener.insecure_loopback)
    asking_again = AskingAgain(streams, catalog, policy_source)
    keepers = (
        *(tls_files, rotation, refresh, reload, remover, expiry, reconciler, presence, namespaces, refusals),
        *(feed, asking_again),
    )
    namespaces.begin()
    stop = asyncio.Event()
    keeping = Keepers([*keepers, *(issuer.keys for issuer in issuers)], stop)
    await _wait_for_stop(journal, stop)

    _log.info("draining", seconds=settings.drain_seconds)
    await doors.close(settings.drain_seconds)
    # What is irrevocable is carried to its end in any case.
    await recorder.drain()
    await keeping.end()
    await refusals.flush()
    await remover.close()
    await watches.close()
    await presence.leave()
    if metrics_server is not None:
        metrics_server[0].shutdown()
        metrics_server[1].join()
    for cluster in caller_clusters:
        await cluster.connection.retire()
    await clusters.close()
    await journal.close()
    database.close()
    _log.info("stopped")
    keeping.check()


async def _take_place(settings: Settings, journal: Journal) -> Order:
    """Which process this is among those that share the store, and which instance all of them are."""
    instance = await journal.change(lambda connection: replica_store.instance_id(connection, settings.instance.id))
    _log.info("instance", id=instance, replica=settings.instance.replica)
    return Order(
        instance=instance,
        replica=settings.instance.replica,
        process=f"{settings.instance.replica}/{secrets.token_hex(8)}",
        every=settings.leases.reconcile_seconds,
        retention=timedelta(seconds=settings.leases.retention_seconds),
        most_strays=settings.leases.most_strays,
        request_window=timedelta(seconds=settings.leases.request_seconds),
    )


def _open_audit_log(settings: Settings, key: bytes, database: Database, clock: Clock) -> AuditLog:
    committed = database.read_now(lambda connection: read_head(connection, settings.instance.replica))
    audit = AuditLog(Path(settings.audit.file), key, committed, clock)
    if audit.found.sequence < committed.sequence:
        _log.error(
            "audit_log_cut",
            file=settings.audit.file,
            ends_with=audit.found.sequence,
            committed=committed.sequence,
            hint="lines that were on the disk are gone (or the file was rotated while the server was stopped)",
        )
    return audit


def _serve_metrics(address: str, registry: CollectorRegistry) -> tuple[HTTPServer, Thread] | None:
    if not address:
        return None
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    host, _, port = address.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"), registry)
    _log.info("metrics", address=address, port=server.server_port)
    return server, thread


async def _wait_for_stop(journal: Journal, stop: asyncio.Event) -> None:
    reopening = set[asyncio.Task[None]]()

    def reopen() -> None:
        task = loop.create_task(journal.reopen())
        reopening.add(task)
        task.add_done_callback(reopening.discard)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    await stop.wait()

"""Metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubevend_server.authentication.issuer_keys import IssuerKeys
from kubevend_server.calls import Call
from kubevend_server.errors import KubevendError
from kubevend_server.policy_folder import PolicySource
from kubevend_server.store import leases as lease_store
from kubevend_server.store import objects as object_store
from kubevend_server.store.leases import LeaseCounts
from kubevend_server.store.objects import ObjectCounts


class Metrics:
    """What the server counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "kubevend_calls",
            "Calls by method, gRPC status and reason (empty where they succeeded).",
            ["method", "status", "reason"],
            registry=registry,
        )
        self._issuances = Counter("kubevend_issuances", "Tokens issued, by role.", ["role"], registry=registry)
        self._replays = Counter(
            "kubevend_replays",
            "Tokens issued of a lease that their request_id had got before, by role.",
            ["role"],
            registry=registry,
        )
        self._failures = Counter(
            "kubevend_issuance_failures",
            "Issuances that were denied, failed or given up, by reason.",
            ["reason"],
            registry=registry,
        )
        self._certificates = Gauge(
            "kubevend_certificate_expiry_timestamp_seconds",
            "When a certificate that listeners show expires, in seconds since the epoch, by its file.",
            ["file"],
            registry=registry,
        )
        self._refused = Counter(
            "kubevend_refused_calls",
            "Calls that were refused since they went beyond a limit, by the reason of the refusal.",
            ["limit"],
            registry=registry,
        )
        self.in_flight = Gauge("kubevend_calls_in_flight", "Calls that are under way.", registry=registry)
        self.streams = Gauge("kubevend_streams_open", "Streams of tokens and watches that are open.", registry=registry)
        self.waiting = Gauge(
            "kubevend_issuances_waiting", "Issuances that wait for their turn at a cluster.", registry=registry
        )

    def refused(self, limit: str) -> None:
        """Count a call that went beyond a limit."""
        self._refused.labels(limit).inc()

    def certificate(self, file: str, expires: datetime) -> None:
        """Tell when the certificate in a file expires."""
        self._certificates.labels(file).set(expires.timestamp())

    def count(self, call: Call, error: KubevendError | None, *, cancelled: bool) -> None:
        """Count a call that has ended."""
        status = "CANCELLED" if cancelled else error.status if error else "OK"
        reason = error.reason if error else ""
        self._calls.labels(call.method.full_name, status, reason).inc()
        if call.record.replayed and status == "OK":
            self._replays.labels(call.record.resource).inc()
        if call.method.name not in ("IssueToken", "StreamTokens") or call.record.only_asks:
            return
        if status != "OK":
            self._failures.labels(reason or status).inc()
        elif call.record.lease:
            self._issuances.labels(call.record.resource).inc()


@dataclass(frozen=True, slots=True)
class Counts:
    """What the store tells of leases and of what stands for them."""

    leases: LeaseCounts
    objects: ObjectCounts


def count_all(connection: sa.Connection, now: datetime) -> Counts:
    """Count leases and objects in the store."""
    return Counts(lease_store.count(connection, now), object_store.count_all(connection))


class LeaseCollector(Collector):
    """The leases and their objects, counted in the store whenever the metrics are asked for."""

    def __init__(self, read: Callable[[], Counts]) -> None:
        """Take how to ask the store; called in the metrics server's thread."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Count."""
        found = self._read()
        leases, objects = found.leases, found.objects
        yield GaugeMetricFamily("kubevend_live_leases", "Leases that have not ended.", value=leases.live)
        yield GaugeMetricFamily(
            "kubevend_next_lease_expiry_timestamp_seconds",
            "When the next live lease ends, in seconds since the epoch; 0 where none lives.",
            value=_epoch(leases.next_expire_time),
        )
        yield GaugeMetricFamily(
            "kubevend_revoking_leases",
            "Leases that have ended, while what stands for them in the cluster is not gone yet.",
            value=leases.revoking,
        )
        yield GaugeMetricFamily(
            "kubevend_objects", "Objects in clusters that stand for leases.", value=objects.standing
        )
        yield GaugeMetricFamily(
            "kubevend_objects_to_delete", "Objects in clusters that are to be deleted.", value=objects.doomed
        )
        yield GaugeMetricFamily(
            "kubevend_failing_deletions",
            "Objects in clusters whose deletion has failed and is tried again.",
            value=objects.failing,
        )


class IssuerCollector(Collector):
    """How old the keys of OIDC issuers are."""

    def __init__(self, keys: Sequence[IssuerKeys]) -> None:
        """Take the issuers' keys; looked at in the metrics server's thread."""
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        """Look at them."""
        ages = GaugeMetricFamily(
            "kubevend_issuer_keys_age_seconds",
            "Seconds since an OIDC issuer's keys were last fetched; +Inf where they never were.",
            labels=["issuer"],
        )
        for keys in self._keys:
            ages.add_metric([keys.issuer], keys.age)
        yield ages


class PolicyCollector(Collector):
    """What the metrics tell of the policies."""

    def __init__(self, source: PolicySource) -> None:
        """Take whose."""
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Tell."""
        source = self._source
        yield GaugeMetricFamily("kubevend_policies", "Access policies in force.", value=len(source.current))
        yield GaugeMetricFamily(
            "kubevend_policy_loaded_timestamp_seconds",
            "Since when the access policies are in force, in seconds since the epoch.",
            value=source.loaded_time.timestamp(),
        )
        yield GaugeMetricFamily(
            "kubevend_policy_stale",
            "1 while what is in the policy folder cannot be used, and older policies are in force; else 0.",
            value=float(bool(source.fault)),
        )
        yield CounterMetricFamily(
            "kubevend_policy_reload_failures",
            "Versions of the policy folder that could not be used.",
            value=source.failures,
        )


def _epoch(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0

"""Metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubevend_server.calls import Call
from kubevend_server.errors import KubevendError
from kubevend_server.store.leases import LiveLeases


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
        self._failures = Counter(
            "kubevend_issuance_failures",
            "Issuances that were denied, failed or given up, by reason.",
            ["reason"],
            registry=registry,
        )

    def count(self, call: Call, error: KubevendError | None, *, cancelled: bool) -> None:
        """Count a call that has ended."""
        status = "CANCELLED" if cancelled else error.status if error else "OK"
        reason = error.reason if error else ""
        self._calls.labels(call.method.full_name, status, reason).inc()
        if call.method.name != "IssueToken":
            return
        if status != "OK":
            self._failures.labels(reason or status).inc()
        elif call.record.lease:
            self._issuances.labels(call.record.resource).inc()


class LeaseCollector(Collector):
    """The live leases, counted in the store whenever the metrics are asked for."""

    def __init__(self, read: Callable[[], LiveLeases]) -> None:
        """Take how to ask the store; called in the metrics server's thread."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Count."""
        live = self._read()
        yield GaugeMetricFamily("kubevend_live_leases", "Leases that have not ended.", value=live.count)
        yield GaugeMetricFamily(
            "kubevend_next_lease_expiry_timestamp_seconds",
            "When the next live lease ends, in seconds since the epoch; 0 where none lives.",
            value=_epoch(live.next_expire_time),
        )


def _epoch(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0

"""The real API server and kubevend servers, as the integration tests have them."""

from __future__ import annotations

from tests.integration.conftest import cluster, empty_store, namespace, start, start_for_all, vending

__all__ = ["cluster", "empty_store", "namespace", "start", "start_for_all", "vending"]

"""The connections to a cluster: how many there are at once, and what becomes of the calls that wait for one."""

from __future__ import annotations

from devcluster import DevCluster
from kubevend.v1 import issue_service_pb2
from tests.integration.conftest import Start
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

CONNECTIONS = 3
CALLERS = 12
LONG = 120.0
"""Seconds for which no call gives up waiting for a connection."""


def test_never_more_connections_than_allowed(start: Start, cluster: DevCluster, namespace: str) -> None:
    """With more calls at once than `max_connections`, the API server sees no more of them, and the rest wait."""
    kubernetes = {
        "max_connections": CONNECTIONS,
        "connect_timeout_seconds": LONG,
        "request_timeout_seconds": LONG,
    }
    with HoldingProxy(cluster.server) as proxy:
        vending = start({"kubernetes": kubernetes})
        vending.add_config(cluster, kubernetes_host=proxy.url)
        vending.admin.create_role(allowed_namespaces=[namespace])
        request = issue_service_pb2.IssueTokenRequest(role="roles/ci")

        proxy.hold_replies()
        calls = [
            vending.admin.issuing.IssueToken.future(request, metadata=vending.admin.metadata) for _ in range(CALLERS)
        ]
        until(lambda: len(vending.events(stage="STAGE_INTENT")) == CALLERS, "all calls to ask for a connection")
        until(lambda: proxy.holding >= CONNECTIONS, "all connections to be in use")
        proxy.release()
        replies = [call.result(timeout=LONG) for call in calls]
        vending.admin.tokens += [reply.token for reply in replies]

        assert proxy.most_connections == CONNECTIONS
    assert len({reply.jti for reply in replies}) == CALLERS

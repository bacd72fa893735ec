"""Watches of leases, on the real API server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2 as pb
from kubevend.v1 import role_service_pb2
from tests.integration.conftest import Vending
from tests.support.client import Client, take_apart
from tests.support.clusters import allow_anchors

NOT_OF_CI = """
@id("not-of-ci") forbid(principal, action == Action::"GetLease", resource) when { resource.role == "roles/ci" };
"""


def watch(client: Client, **fields: Any) -> Any:
    """Open a watch, and take its first bookmark."""
    stream = client.leases.WatchLeases(pb.WatchLeasesRequest(**fields), metadata=client.metadata, timeout=120)
    assert next(stream).WhichOneof("event") == "watched_until"
    return stream


def revoke(client: Client, lease: str) -> None:
    """End a lease."""
    client.call(client.leases.RevokeLease, pb.RevokeLeaseRequest(name=lease))


def test_ends_are_told_as_they_come(vending: Vending) -> None:
    """Who watches is told of each lease that ends, with how and why."""
    first, second = vending.admin.issue(), vending.admin.issue()
    told = watch(vending.admin)

    revoke(vending.admin, first.lease)
    lease = next(told).lease
    assert (lease.name, lease.state) == (first.lease, pb.Lease.STATE_REVOKED)
    assert lease.end_cause == "revoked by admin://local/bootstrap"
    revoke(vending.admin, second.lease)
    assert next(told).lease.name == second.lease


def test_what_is_deleted_in_the_cluster_is_told_until_it_is_gone(
    vending: Vending, cluster: DevCluster, namespace: str
) -> None:
    """A lease with an anchor is told, perhaps twice, and last when the anchor is gone."""
    allow_anchors(cluster, namespace)
    vending.admin.create_role(
        "anchored", allowed_namespaces=[namespace], revocation=role_service_pb2.REVOCATION_PER_LEASE
    )
    issued = vending.admin.issue("roles/anchored")
    told = watch(vending.admin, filter=pb.LeaseFilter(role="roles/anchored"))

    revoke(vending.admin, issued.lease)

    states: list[int] = []
    while pb.Lease.STATE_REVOKED not in states:
        lease = next(told).lease
        assert lease.name == issued.lease
        states.append(lease.state)
    assert states in ([pb.Lease.STATE_REVOKED], [pb.Lease.STATE_REVOKING, pb.Lease.STATE_REVOKED])


def test_a_filter_narrows_a_watch(vending: Vending, namespace: str) -> None:
    """Who watches a role is not told of another one's leases."""
    vending.admin.create_role("other", allowed_namespaces=[namespace])
    passed_over, told_of = vending.admin.issue("roles/ci"), vending.admin.issue("roles/other")
    told = watch(vending.admin, filter=pb.LeaseFilter(role="roles/other"))

    revoke(vending.admin, passed_over.lease)
    revoke(vending.admin, told_of.lease)

    assert next(told).lease.name == told_of.lease


def test_a_watch_goes_on_where_the_last_one_ended(vending: Vending) -> None:
    """With the last bookmark nothing that ended in between is missed, over a restart of the server too."""
    first, second = vending.admin.issue(), vending.admin.issue()
    stream = vending.admin.leases.WatchLeases(pb.WatchLeasesRequest(), metadata=vending.admin.metadata, timeout=60)
    bookmark = next(stream).watched_until
    revoke(vending.admin, first.lease)
    vending.server.stop()
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert take_apart(error.value).reason == "SERVER_STOPPING"
    vending.restart()
    revoke(vending.admin, second.lease)

    told = watch(vending.admin, end_after=bookmark)

    assert [next(told).lease.name for _ in range(2)] == [first.lease, second.lease]


def test_who_may_not_get_a_lease_is_not_told_of_it(vending: Vending, namespace: str) -> None:
    """A watch shows only leases that its caller may get."""
    policies = vending.server.folder / "policies" / "policies.cedar"
    vending.admin.create_role("shown", allowed_namespaces=[namespace])
    hidden, shown = vending.admin.issue("roles/ci"), vending.admin.issue("roles/shown")
    vending.server.stop()
    policies.write_text(policies.read_text() + NOT_OF_CI)
    vending.restart()
    told = watch(vending.admin)

    # Who may not get it may not end it either, so its role's other lease shows what becomes of it by the filter.
    request = pb.RevokeLeasesRequest(filter=pb.LeaseFilter(namespace=namespace))
    ended = vending.admin.call(vending.admin.leases.RevokeLeases, request)

    assert {each.lease for each in ended.revocations} >= {shown.lease}
    assert next(told).lease.name == shown.lease
    assert hidden.lease != shown.lease


def test_a_moment_too_long_ago_is_refused(vending: Vending) -> None:
    """What ended more than a day ago is for ListLeases."""
    request = pb.WatchLeasesRequest(end_after=Timestamp(seconds=1))

    with pytest.raises(grpc.RpcError) as error:
        next(vending.admin.leases.WatchLeases(request, metadata=vending.admin.metadata, timeout=30))

    refusal = take_apart(error.value)
    assert (refusal.status, refusal.violations) == ("INVALID_ARGUMENT", ("end_after",))

"""Streams of tokens, on the real API server."""

from __future__ import annotations

import json

import grpc
import pytest

from devcluster import DevCluster
from kubevend.v1 import identity_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import take_apart

OFTEN = {"issuance": {"renew_after": 0.002}}
"""The next token after 1.2 s of the 600 that a token lives."""


@pytest.fixture
def often(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server on which tokens follow each other quickly, with role `ci`."""
    vending = start(OFTEN)
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace], ttl={"seconds": 600})
    return vending


def test_a_stream_goes_on_with_the_next_token(often: Vending, cluster: DevCluster, namespace: str) -> None:
    """The first token comes at once, the next ones in time, each works, and each has its lease and its event."""
    stream = often.admin.stream("roles/ci")

    replies = [next(stream).token for _ in range(3)]
    stream.cancel()

    for reply in replies:
        who = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", token=reply.token))
        assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:demo"
    assert len({reply.lease for reply in replies}) == 3
    done = often.events(method="kubevend.v1.IssueService/StreamTokens", stage="STAGE_COMPLETE")[:3]
    assert [event["jti"] for event in done] == [reply.jti for reply in replies]
    assert len({event["requestId"] for event in done}) == 3
    assert {event["streamId"] for event in done} == {done[0]["requestId"]}


def test_a_drain_ends_streams_so_that_they_are_opened_again(often: Vending) -> None:
    """A server that stops ends its streams with UNAVAILABLE, at once."""
    stream = often.admin.stream("roles/ci")
    next(stream)

    often.server.stop()

    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    refusal = take_apart(error.value)
    assert (refusal.status, refusal.reason) == ("UNAVAILABLE", "SERVER_STOPPING")


def test_a_stream_that_may_not_be_is_refused(often: Vending) -> None:
    """What IssueToken refuses a stream is refused, with the same words."""
    with pytest.raises(grpc.RpcError) as error:
        list(often.admin.stream(namespace="elsewhere"))

    assert take_apart(error.value) == often.admin.issue_refused(namespace="elsewhere")


def test_callers_learn_who_they_are(often: Vending) -> None:
    """WhoAmI tells a caller its name, and what it may do besides its roles."""
    found = often.admin.call(often.admin.identity.WhoAmI, identity_service_pb2.WhoAmIRequest())

    assert (found.name, found.kind, found.mechanism, found.source_address) == (
        "admin://local/bootstrap",
        "Admin",
        "bootstrap_token",
        "127.0.0.1",
    )
    assert list(found.actions) == ["ListConfigs", "ListLeases", "ListRoles", "RevokeLeases"]

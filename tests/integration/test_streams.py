"""Streams of tokens, on the real API server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import identity_service_pb2, issue_service_pb2, lease_service_pb2, role_service_pb2
from tests.integration.conftest import Start, Vending, metrics_port
from tests.support.client import Refusal, take_apart
from tests.support.clusters import allow_anchors, anchors
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

OFTEN = {"issuance": {"renew_after": 0.002}}
"""The next token after 1.2 s of the 600 that a token lives."""
NO_TOKENS = '\n@id("no-tokens") forbid(principal, action == Action::"IssueToken", resource);\n'
ANYBODY = '\n@id("anybody") permit(principal is ServiceAccount, action, resource);\n'


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
    assert list(found.actions) == ["ListConfigs", "ListLeases", "ListRoles", "RevokeLeases", "WatchLeases"]


@pytest.mark.parametrize("revocation", ["REVOCATION_NONE", "REVOCATION_PER_LEASE", "REVOCATION_PER_CALLER"])
def test_a_revocation_is_told_and_ends_the_stream(
    vending: Vending, cluster: DevCluster, namespace: str, revocation: role_service_pb2.Revocation.ValueType
) -> None:
    """When the lease of a stream's token is revoked, a notice says so, and the stream ends with the same reason."""
    allow_anchors(cluster, namespace)
    vending.admin.create_role("anchored", allowed_namespaces=[namespace], revocation=revocation)
    stream = vending.admin.stream("roles/anchored")
    token = next(stream).token

    vending.admin.call(vending.admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=token.lease))

    notice, refusal = end_of(stream)
    assert (notice.reason, notice.lease) == ("LEASE_REVOKED", token.lease)
    assert (refusal.status, refusal.reason) == ("ABORTED", "LEASE_REVOKED")
    assert refusal.metadata == {"lease": token.lease, "cause": "revoked by admin://local/bootstrap"}
    if token.revocation == role_service_pb2.REVOCATION_NONE:
        assert notice.works_until == token.token_expiration
    else:
        assert notice.works_until.ToDatetime() < token.token_expiration.ToDatetime()
        assert notice.HasField("works_until")


def test_a_revocation_of_another_lease_does_not_end_the_stream(vending: Vending) -> None:
    """Only the lease of the token that came last ends the stream."""
    other = vending.admin.issue()
    stream = vending.admin.stream("roles/ci")
    token = next(stream).token

    for lease in (other.lease, token.lease):
        vending.admin.call(vending.admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=lease))

    notice, _ = end_of(stream)
    assert notice.lease == token.lease


def test_a_role_that_goes_ends_the_stream(vending: Vending) -> None:
    """When the role no longer allows it a notice says so, long before the next token would be due."""
    stream = vending.admin.stream("roles/ci")
    token = next(stream).token

    vending.admin.call(vending.admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name="roles/ci"))

    notice, refusal = end_of(stream)
    assert (notice.reason, notice.works_until) == ("ROLE_NOT_FOUND", token.token_expiration)
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "ROLE_NOT_FOUND")


def test_a_policy_that_goes_ends_the_stream(vending: Vending) -> None:
    """When policies no longer allow it a notice says so, and the audit log has who was denied."""
    stream = vending.admin.stream("roles/ci")
    next(stream)
    policies = vending.server.folder / "policies" / "policies.cedar"

    policies.write_text(policies.read_text() + NO_TOKENS)

    notice, refusal = end_of(stream)
    assert (notice.reason, refusal.status) == ("ACCESS_DENIED", "PERMISSION_DENIED")
    (denied,) = vending.events(method="kubevend.v1.IssueService/StreamTokens", outcome="OUTCOME_DENIED")
    assert denied["decision"]["policies"] == ["no-tokens"]


def test_a_change_that_takes_nothing_away_leaves_streams_and_log_alone(vending: Vending, namespace: str) -> None:
    """A stream that still may go on does, and that it has asked leaves no event."""
    stream = vending.admin.stream("roles/ci")
    token = next(stream).token
    vending.admin.create_role("other", allowed_namespaces=[namespace])
    gone = vending.admin.stream("roles/other")
    next(gone)

    vending.admin.call(vending.admin.roles.DeleteRole, role_service_pb2.DeleteRoleRequest(name="roles/other"))
    end_of(gone)  # streams ask in the order in which they were opened, so the first one has, too

    assert stream.is_active()
    done = vending.events(method="kubevend.v1.IssueService/StreamTokens", stage="STAGE_COMPLETE", resource="roles/ci")
    assert [event["lease"] for event in done] == [token.lease]


def test_who_is_no_longer_known_gets_no_further_token(
    start: Start, cluster: DevCluster, namespace: str, tmp_path: Path
) -> None:
    """Who the caller is is asked again for each token: the stream ends with the credential that it was opened with."""
    reviewer = tmp_path / "reviewer.token"
    reviewer.write_text(cluster.token("kubevend", "kubevend"))
    of_cluster = {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(reviewer)}
    callers = {"clusters": {"dev": of_cluster}, "remember_seconds": 0.0}
    vending = start({**OFTEN, "callers": callers}, policies=BOOTSTRAP_POLICY + ANYBODY)
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace], ttl={"seconds": 600})
    cluster.kubectl("create", "serviceaccount", "caller", "--namespace", namespace)
    caller = vending.client(cluster.token(namespace, "caller", audience="kubevend"))
    stream = caller.stream("roles/ci")
    next(stream)

    cluster.kubectl("delete", "serviceaccount", "caller", "--namespace", namespace)

    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert take_apart(error.value).status == "UNAUTHENTICATED"


def test_one_caller_has_so_many_streams(start: Start, cluster: DevCluster, namespace: str) -> None:
    """Beyond limits.streams_per_caller a stream is refused; when one was closed there is room again."""
    vending = start({"limits": {"streams_per_caller": 2}})
    vending.add_config(cluster)
    vending.admin.create_role(allowed_namespaces=[namespace])
    first, second = vending.admin.stream("roles/ci"), vending.admin.stream("roles/ci")
    next(first)
    next(second)

    assert not opens(vending)
    first.cancel()
    until(lambda: opens(vending), "room for another stream")


def test_an_outage_of_the_cluster_is_waited_out(start: Start, cluster: DevCluster, namespace: str) -> None:
    """While the API server cannot be reached the stream stays open, and the next token comes when it can again."""
    vending = start(OFTEN)
    with HoldingProxy(cluster.server) as way:
        vending.add_config(cluster, kubernetes_host=way.url)
        vending.admin.create_role(allowed_namespaces=[namespace], ttl={"seconds": 600})
        stream = vending.admin.stream("roles/ci")
        first = next(stream).token

        way.refuse()
        way.cut()
        failed = {"method": "kubevend.v1.IssueService/StreamTokens", "outcome": "OUTCOME_FAILED"}
        until(lambda: vending.events(**failed), "an issuance that fails")
        way.accept()

        tokens = [next(stream).token for _ in range(2)]
        assert first.lease not in {token.lease for token in tokens}
        stream.cancel()


def test_an_anchor_that_somebody_deletes_ends_the_stream(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """When it is found that somebody has deleted what a stream's token stands on, the stream is told, and why."""
    allow_anchors(cluster, namespace)
    vending.admin.create_role(
        "anchored", allowed_namespaces=[namespace], revocation=role_service_pb2.REVOCATION_PER_CALLER
    )
    stream = vending.admin.stream("roles/anchored")
    token = next(stream).token

    cluster.kubectl("delete", "secret", *anchors(cluster, namespace), "--namespace", namespace)
    # The next issuance on it finds that it is gone.
    vending.admin.issue("roles/anchored")

    notice, refusal = end_of(stream)
    assert (notice.reason, notice.lease) == ("LEASE_REVOKED", token.lease)
    assert refusal.metadata["cause"] == "its anchor was deleted in the cluster by somebody else"


def test_every_token_has_lease_and_event_after_a_crash(often: Vending) -> None:
    """A server that is killed has lost the lease or the event of no token that came on a stream."""
    stream = often.admin.stream("roles/ci")
    tokens = [next(stream).token for _ in range(3)]

    often.server.kill()
    tokens += [answer.token for answer in read(stream)[0]]
    often.restart()

    done = often.events(method="kubevend.v1.IssueService/StreamTokens", outcome="OUTCOME_SUCCEEDED")
    assert {token.jti for token in tokens} <= {event["jti"] for event in done}
    for token in tokens:
        request = lease_service_pb2.GetLeaseRequest(name=token.lease)
        lease = often.admin.call(often.admin.leases.GetLease, request).lease
        assert token.jti in {each.jti for each in lease.tokens}


def test_what_streams_leave_when_their_callers_go(vending: Vending) -> None:
    """Dozens of streams over a few connections are counted, and none is left of those whose callers are gone."""
    callers = [vending.client(vending.server.admin_token) for _ in range(3)]
    streams = [caller.stream("roles/ci") for caller in callers for _ in range(12)]
    for stream in streams:
        next(stream)
    assert open_streams(vending) == 36

    for stream in streams[:6]:
        stream.cancel()
    for caller in callers[1:]:
        caller.close()
    until(lambda: open_streams(vending) == 6, "the others to be gone")

    done = vending.events(method="kubevend.v1.IssueService/StreamTokens", stage="STAGE_COMPLETE")
    assert [event["outcome"] for event in done] == ["OUTCOME_SUCCEEDED"] * 36


def open_streams(vending: Vending) -> int:
    """How many are open, as the metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port(vending)}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("kubevend_streams_open "))))


def opens(vending: Vending) -> bool:
    """Whether another stream may be opened."""
    stream = vending.admin.stream("roles/ci")
    answers, refusal = read(stream, most=1)
    assert refusal is None or refusal.reason == "TOO_MANY_STREAMS"
    stream.cancel()
    return bool(answers)


def read(stream: Any, most: int = 100) -> tuple[list[issue_service_pb2.StreamTokensResponse], Refusal | None]:
    """What comes on a stream, and with what it ends, if it does before so many."""
    answers: list[issue_service_pb2.StreamTokensResponse] = []
    try:
        while len(answers) < most:
            answers.append(next(stream))
    except grpc.RpcError as error:
        return answers, take_apart(error)
    return answers, None


def end_of(stream: Any) -> tuple[issue_service_pb2.StreamNotice, Refusal]:
    """The notice before the end of a stream, and its error."""
    (last,), refusal = read(stream)
    assert refusal is not None
    assert last.WhichOneof("event") == "notice"
    return last.notice, refusal

"""A real token in every place that is not for one: it is neither in an answer nor in anything that a server writes."""

from __future__ import annotations

import itertools
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_status import rpc_status

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2, issue_service_pb2
from tests.integration.conftest import Start, Vending
from tests.support.client import take_apart
from tests.support.malformed import methods
from tests.support.misplaced import misplaced

DENIES_LISTS = """
@id("bootstrap-admin")
permit (principal is Admin, action, resource);
@id("no-lists")
forbid (principal, action == Action::"ListLeases", resource);
"""


@pytest.fixture
def pasted(vending: Vending) -> list[str]:
    """Real credentials that somebody could paste: an issued token, a caller's own, the bootstrap admin's."""
    return [vending.admin.issue().token, vending.server.admin_token]


def error_of(vending: Vending, method: MethodDescriptor, payload: bytes, metadata: Any = None) -> grpc.RpcError:
    """Call a method with bytes, which must fail."""
    stub: Any = vending.admin.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    with pytest.raises(grpc.RpcError) as refusal:
        stub(payload, metadata=metadata or vending.admin.metadata, timeout=30)
    return refusal.value


def told(error: grpc.RpcError) -> bytes:
    """All that an error tells: its text, and its details as they came."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None
    details: bytes = status.SerializeToString()
    return (error.details() or "").encode() + details


def assert_not_written(vending: Vending, tokens: list[str]) -> None:
    """Fail if a token is in a file of the server's; `start` looks for those that it knows itself."""
    vending.server.stop()
    for file in vending.server.folder.rglob("*"):
        if file.is_file() and file.name != "admin.token":
            content = file.read_bytes()
            # Nor may half of one be.
            assert not any(token[len(token) // 2 :].encode() in content for token in tokens), file
    vending.server.start()


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_token_in_the_wrong_field_is_refused_and_written_nowhere(
    vending: Vending, pasted: list[str], method: MethodDescriptor
) -> None:
    """Each field of each method that is not for a token refuses one by its path, and what it was is told to nobody."""
    for token in pasted:
        for path, request in misplaced(method.input_type, token):
            error = error_of(vending, method, request.SerializeToString())

            refusal = take_apart(error)
            assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID"), path
            assert refusal.violations == (path.replace(token, "[a token was left out here]"),)
            assert "must not hold a token" in refusal.message
            assert token.encode() not in told(error)
    assert_not_written(vending, pasted)


def test_a_token_in_metadata_is_written_nowhere(vending: Vending, pasted: list[str]) -> None:
    """Metadata with a token in them, known callers' and unknown ones', leave it neither in the log nor in the error."""
    (method,) = (found for found in methods() if found.name == "IssueToken")
    payload = issue_service_pb2.IssueTokenRequest(role="roles/none").SerializeToString()
    keys = ["user-agent", "x-request-id", "traceparent", "tracestate", "x-forwarded-for", "authorization"]
    for token, key in itertools.product(pasted, keys):
        for known in ((), vending.admin.metadata):
            if key == "authorization" and known:
                continue
            error = error_of(vending, method, payload, (*known, (key, token)))
            assert token.encode() not in told(error)
    assert_not_written(vending, pasted)


def test_a_token_as_user_agent_is_left_out_of_the_event(vending: Vending, pasted: list[str]) -> None:
    """A client that calls itself by a token leaves an event that says so, without it, in a log that is sound."""
    with grpc.secure_channel(
        vending.server.address,
        grpc.ssl_channel_credentials((vending.server.folder / "ca.crt").read_bytes()),
        [("grpc.primary_user_agent", pasted[1])],
    ) as channel:
        stub: Any = channel.unary_unary("/kubevend.v1.ConfigService/DeleteConfig")
        payload = config_service_pb2.DeleteConfigRequest(name="configs/none").SerializeToString()
        with pytest.raises(grpc.RpcError):
            stub(payload, metadata=vending.admin.metadata, timeout=30)

    (event,) = vending.events(method="kubevend.v1.ConfigService/DeleteConfig")
    assert event["userAgent"].startswith("[a token was left out here]")
    assert_not_written(vending, pasted)


def test_a_denied_list_tells_no_token(start: Start, cluster: DevCluster) -> None:
    """The filter of a list that is denied, which its event would echo, has no token in it."""
    vending = start(policies=DENIES_LISTS)
    token = cluster.token("kubevend", "kubevend")
    vending.admin.tokens.append(token)
    (method,) = (found for found in methods() if found.name == "ListLeases")
    for path, request in misplaced(method.input_type, token):
        error = error_of(vending, method, request.SerializeToString())
        assert take_apart(error).violations == (path,)
        assert token.encode() not in told(error)
    assert_not_written(vending, [token])

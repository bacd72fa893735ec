"""The policy folder of a running server: swapped as the kubelet does it, and with faults; and what policies hide."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import role_service_pb2 as rs
from tests.integration.conftest import Start, Vending
from tests.support.mounted import Mounted
from tests.support.waiting import until

GROUPED = '@id("grouped") permit(principal in Group::"admins", action, resource);'
GROUPS = '[groups]\nadmins = ["admin://local/*"]'
NOBODY = '@id("nobody") permit(principal in Group::"okta:nobody", action, resource);'
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(vending: Vending, name: str) -> int:
    """What the health service says of something."""
    stub = health_pb2_grpc.HealthStub(vending.client().channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)


def may_list(vending: Vending) -> bool:
    """Whether the bootstrap admin may list roles."""
    try:
        vending.admin.call(vending.admin.roles.ListRoles, rs.ListRolesRequest())
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        return False
    return True


def logged(vending: Vending, event: str) -> list[dict[str, Any]]:
    """The lines of the process log that tell of something."""
    lines = vending.server.log_file.read_text().splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [each for each in parsed if each["event"] == event]


def metrics(vending: Vending) -> dict[str, float]:
    """The metrics of policies."""
    port = logged(vending, "metrics")[0]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = [line.split(" ") for line in reply.read().decode().splitlines() if line.startswith("kubevend_polic")]
    return {name: float(value) for name, value in lines if "timestamp" not in name}


def counted(policies: int, stale: int, failures: int) -> dict[str, float]:
    """The metrics of policies as they should be."""
    return {
        "kubevend_policies": policies,
        "kubevend_policy_stale": stale,
        "kubevend_policy_reload_failures_total": failures,
    }


def test_a_mounted_folder_is_followed(start: Start) -> None:
    """A ConfigMap that is swapped is in force a little later, groups and all; a version with a fault changes nothing,
    and health, metrics and log say so until the next one can be used.
    """
    vending = start({"metrics": {"address": "127.0.0.1:0"}})
    assert metrics(vending) == counted(1, 0, 0)
    mounted = Mounted(vending.server.folder / "policies")

    mounted.swap({"a.cedar": GROUPED, "groups.toml": GROUPS})
    until(lambda: len(logged(vending, "policies_loaded")) == 2, "the groups to be in force")
    vending.admin.call(vending.admin.configs.CreateConfig, CONFIG)
    (made,) = vending.events(method="kubevend.v1.ConfigService/CreateConfig")
    assert (made["caller"]["groups"], made["decision"]["policies"]) == (["admins"], ["grouped"])

    mounted.swap({"a.cedar": GROUPED, "b.cedar": "permit(", "groups.toml": GROUPS})
    until(lambda: health(vending, "kubevend.policies") == NOT_SERVING, "the fault to be found")
    assert (health(vending, ""), may_list(vending), metrics(vending)) == (SERVING, True, counted(1, 1, 1))
    (line,) = logged(vending, "policies_unusable")
    assert "b.cedar: it does not parse" in line["error"]

    mounted.swap({"a.cedar": NOBODY})
    until(lambda: not may_list(vending), "the new policies to be in force")
    until(lambda: health(vending, "kubevend.policies") == SERVING, "health to follow")
    assert metrics(vending) == counted(1, 0, 1)
    assert len(logged(vending, "policies_unusable")) == 1


HIDING = (
    '@id("make") permit(principal, action in '
    '[Action::"CreateConfig", Action::"CreateRole", Action::"UseConfig"], resource);'
)
CONFIG = cs.CreateConfigRequest(
    config_id="default", config=cs.Config(kubernetes_host="https://10.0.0.1:6443", service_account_jwt="of-no-use")
)


@pytest.mark.parametrize(
    ("stub", "method", "make"),
    [
        ("roles", "GetRole", lambda name: rs.GetRoleRequest(name=name)),
        ("roles", "DeleteRole", lambda name: rs.DeleteRoleRequest(name=name)),
        ("roles", "UpdateRole", lambda name: rs.UpdateRoleRequest(role=rs.Role(name=name, allowed_audiences=["b"]))),
        ("issuing", "IssueToken", lambda name: iss.IssueTokenRequest(role=name)),
        ("issuing", "IssueToken", lambda name: iss.IssueTokenRequest(role=name, namespace="not-allowed")),
    ],
)
def test_a_hidden_role_answers_like_a_missing_one(
    hiding: Vending, stub: str, method: str, make: Callable[[str], Message]
) -> None:
    """On the wire, the status of a role that the caller may not see is that of one that is not there, to the byte, but
    for the name.
    """
    called = getattr(getattr(hiding.admin, stub), method)
    hidden, missing = (answered(hiding, called, make(name)) for name in ("roles/ci", "roles/no"))
    assert hidden[0] == grpc.StatusCode.NOT_FOUND
    assert [part.replace(b"roles/ci", b"roles/no") for part in hidden[1:]] == missing[1:]


@pytest.fixture(scope="module")
def hiding(start_for_all: Start) -> Vending:
    """A server with a role that nobody may see."""
    vending = start_for_all(policies=HIDING)
    vending.admin.call(vending.admin.configs.CreateConfig, CONFIG)
    vending.admin.create_role(
        allowed_namespaces=["apps"], allowed_service_accounts=["deployer"], allowed_audiences=["https://api"]
    )
    return vending


def answered(vending: Vending, method: Callable[..., Any], request: Message) -> list[Any]:
    """The code, the message, and all details of a refusal, as they are in the trailers."""
    request_id = ("x-request-id", "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c")
    with pytest.raises(grpc.RpcError) as refused:
        method(request, metadata=(*vending.admin.metadata, request_id))
    error: Any = refused.value
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return [error.code(), error.details().encode(), details]

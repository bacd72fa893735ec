"""Bad input of every kind for every method, without a network: the quick half of the integration test."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from hypothesis import strategies as st

from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import role_service_pb2 as rs
from tests.support.malformed import Malformed, described, made, methods
from tests.unit.builders import ADMIN_TOKEN, SECRET, ca_certificate
from tests.unit.world import HOST, Refused, World

METHODS = {method.full_name: method for method in methods()}
DEFECTS = {code_pb2.INTERNAL, code_pb2.UNKNOWN}


@pytest.fixture(scope="module")
def malformed() -> Malformed:
    """Bad input that knows of what `world` holds here, and of what it might."""
    sound: list[Message] = [
        cs.Config(name="configs/default", kubernetes_host=HOST, kubernetes_ca_cert=ca_certificate()),
        cs.Config(service_account_jwt=SECRET),
        rs.Role(
            name="roles/ci",
            config="configs/default",
            allowed_namespaces=["apps", "*"],
            allowed_service_accounts=["deployer", "*"],
            allowed_audiences=["https://api"],
            labels={"team": "payments"},
        ),
        iss.IssueTokenRequest(role="roles/ci", namespace="apps", audiences=["https://api"]),
    ]
    return Malformed(sound, variety=12)


@pytest.mark.parametrize("name", METHODS)
async def test_no_input_is_a_defect(world: World, malformed: Malformed, name: str) -> None:
    """Whatever a method is sent, its answer is a success or an error with a reason, and no defect."""
    await world.call(
        cs.CreateConfigRequest(config_id="default", config=cs.Config(kubernetes_host=HOST, service_account_jwt=SECRET))
    )
    role = rs.Role(
        allowed_namespaces=["apps"], allowed_service_accounts=["deployer"], allowed_audiences=["https://api"]
    )
    await world.call(rs.CreateRoleRequest(role_id="ci", role=role))
    method = METHODS[name]
    strategy: st.SearchStrategy[bytes] = malformed.requests(method.input_type) | malformed.payloads(method.input_type)

    for payload in made(strategy, 50):
        fault = await _fault(world, method.name, payload)
        assert not fault, f"{fault}\n{described(method, payload)}"


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"Bearer \xff\xfe", b"Bearer \xc3.\x00.\n", b"\x80" * 8000])
@pytest.mark.parametrize("key", ["authorization", "x-request-id", "traceparent", "user-agent", "x-bin"])
async def test_metadata_that_are_no_text_are_no_defect(world: World, key: str, value: bytes) -> None:
    """Whatever bytes come as metadata, the answer is no defect, and the audit log has the call."""
    assert await _fault(world, "GetRole", b"", {"authorization": f"Bearer {ADMIN_TOKEN}", key: value}) == ""
    assert len(world.lines()) == (1 if key == "authorization" else 0)


async def _fault(world: World, name: str, payload: bytes, metadata: dict[str, str | bytes] | None = None) -> str:
    """Send a payload; what must not be in its answer, or nothing."""
    try:
        await world.send(name, payload, metadata)
    except Refused as refused:
        info = refused.detail(error_details_pb2.ErrorInfo)
        is_own = info.domain == "kubevend.dev" and bool(info.reason) and refused.status.code not in DEFECTS
        return "" if is_own else str(refused.status)
    return ""

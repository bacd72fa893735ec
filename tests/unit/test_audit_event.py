from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from kubevend.v1 import audit_event_pb2
from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import lease_service_pb2 as ls
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server import errors
from kubevend_server.audit import event
from kubevend_server.audit.chain import NO_HASH
from kubevend_server.audit.log import AuditLog
from kubevend_server.callers import service_account
from kubevend_server.calls import Call, Record
from kubevend_server.cluster.tokens import IssuedToken
from kubevend_server.policy.lifetimes import shortened
from kubevend_server.warning import Warning
from tests.unit.builders import ADMIN_TOKEN, NOW, SECRET, call, granted, lease, minted, shown
from tests.unit.world import FakeConnection, Refused, World, token_reply

HOUR = timedelta(hours=1)
RUNNER = service_account("prod", "ci", "runner", "caller-jti")

IDENTITY = {
    "method": "kubevend.v1.IssueService/IssueToken",
    "requestId": "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c",
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
    "caller": {"name": "kubernetes://prod/ci/runner", "mechanism": "token_review", "credentialId": "caller-jti"},
    "source": "ipv4:10.0.0.7:51234",
    "userAgent": "grpcurl/1.9.4",
}
GRANT = {
    "config": "configs/default",
    "namespace": "apps",
    "serviceAccount": "deployer",
    "audiences": ["https://api"],
    "ttl": "3600s",
}
DECISION = {"policies": ["everything"], "rules": list(granted().terms.rules)}


def _asked() -> Call:
    record = Record(resource="roles/ci", request={"role": "roles/ci", "ttl": "3600s"})
    return call(caller=RUNNER, record=record)


def _decided() -> Call:
    made = _asked()
    made.record.policies, made.record.rules = ("everything",), granted().terms.rules
    made.record.grant = granted()
    return made


def _issued() -> Call:
    made = _decided()
    made.record.lease, made.record.jti, made.record.kubernetes_audit_id = lease().name, "jti-1", "audit-1"
    made.record.expiration = made.record.token_expiration = NOW + HOUR
    return made


def in_proto_json(line: Mapping[str, Any]) -> None:
    """Hold a line against the proto: it parses without unknown fields, and is written again as the same object."""
    parsed = json_format.Parse(json.dumps(line), audit_event_pb2.AuditEvent())
    again = json_format.MessageToDict(parsed)
    # How many zeros end a fraction of a second is the writer's to choose; the value must be the same.
    values: tuple[tuple[str, type[Duration | Timestamp]], ...] = (
        ("duration", Duration),
        ("time", Timestamp),
        ("expiration", Timestamp),
        ("tokenExpiration", Timestamp),
    )
    for name, kind in values:
        if name in line:
            ours, theirs = kind(), kind()
            ours.FromJsonString(line[name])
            theirs.FromJsonString(again[name])
            assert ours == theirs
            again[name] = line[name]
    assert again == dict(line)


@pytest.fixture
def written(audit: AuditLog, tmp_path: Path) -> Any:
    """Write an event, hold its line against the proto, and answer the event's own part of the line."""

    def write(fields: Mapping[str, Any]) -> dict[str, Any]:
        audit.append(fields)
        line: dict[str, Any] = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
        in_proto_json(line)
        assert line.pop("hash") == audit.head.hash
        assert (line.pop("sequence"), line.pop("previousHash")) == ("1", NO_HASH)
        assert line.pop("time") == "2026-05-04T12:00:00.123456Z"
        return line

    return write


def test_an_intent(written: Any) -> None:
    """The line before a TokenRequest says who is about to ask for what, under which lease and Audit-Id."""
    assert written(event.intent(_decided(), granted(), "leases/x", "audit-1")) == {
        "stage": "STAGE_INTENT",
        **IDENTITY,
        "resource": "roles/ci",
        "grant": GRANT,
        "lease": "leases/x",
        "kubernetesAuditId": "audit-1",
    }


ASKED = {
    "stage": "STAGE_COMPLETE",
    **IDENTITY,
    "resource": "roles/ci",
    "request": {"role": "roles/ci", "ttl": "3600s"},
}
ISSUED = {
    **ASKED,
    "decision": DECISION,
    "grant": GRANT,
    "lease": lease().name,
    "jti": "jti-1",
    "kubernetesAuditId": "audit-1",
    "expiration": "2026-05-04T13:00:00.123456Z",
    "tokenExpiration": "2026-05-04T13:00:00.123456Z",
}


def _without_duration(line: dict[str, Any]) -> dict[str, Any]:
    assert line.pop("duration").endswith("s")
    return line


def test_an_issuance_that_succeeded(written: Any) -> None:
    """The line of a token that was issued has the whole story, the warnings too, and no token."""
    made = _issued()
    made.record.warnings = (shortened("TTL_CAPPED_BY_ROLE", "max_ttl of roles/ci", 2 * HOUR, HOUR),)
    assert _without_duration(written(event.completion(made, None))) == {
        **ISSUED,
        "warnings": [
            {
                "reason": "TTL_CAPPED_BY_ROLE",
                "message": "The TTL was shortened from 7200s to 3600s by max_ttl of roles/ci.",
                "metadata": {"by": "max_ttl of roles/ci", "from": "7200s", "to": "3600s"},
            }
        ],
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


def test_a_warning_without_facts(written: Any) -> None:
    """A warning of the cluster's own has no metadata, and neither has its line, as proto JSON leaves out what is
    empty.
    """
    made = _issued()
    made.record.warnings = (Warning("CLUSTER_WARNING", "The cluster warned: x"),)
    assert _without_duration(written(event.completion(made, None))) == {
        **ISSUED,
        "warnings": [{"reason": "CLUSTER_WARNING", "message": "The cluster warned: x"}],
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


def test_a_call_that_nobody_may_make(written: Any) -> None:
    """A denial by default has a decision that names no policy."""
    made = _asked()
    made.record.policies, made.record.denied = (), True
    error = errors.PermissionDenied("ACCESS_DENIED", "No.")
    got = _without_duration(written(event.completion(made, error)))
    assert got == {
        **ASKED,
        "decision": {},
        "outcome": "OUTCOME_DENIED",
        "status": "PERMISSION_DENIED",
        "reason": "ACCESS_DENIED",
        "message": "No.",
    }


def test_a_forbidden_call(written: Any) -> None:
    """A denial by a policy names it."""
    made = _asked()
    made.record.policies, made.record.denied = ("no-prod",), True
    error = errors.PermissionDenied("ACCESS_DENIED", "No.")
    got = _without_duration(written(event.completion(made, error)))
    assert (got["decision"]["policies"], got["outcome"]) == (["no-prod"], "OUTCOME_DENIED")


def test_a_hidden_role_is_a_denial(written: Any) -> None:
    """What the caller is told does not exist is a denial in the log, if that is what it was."""
    made = _asked()
    made.record.denied = True
    error = errors.NotFound("ROLE_NOT_FOUND", "No such.")
    assert _without_duration(written(event.completion(made, error))) == {
        **ASKED,
        "outcome": "OUTCOME_DENIED",
        "status": "NOT_FOUND",
        "reason": "ROLE_NOT_FOUND",
        "message": "No such.",
    }


def test_a_caller_that_nobody_knows(written: Any) -> None:
    """Where authentication failed there is no caller, and the line says from where the call came."""
    made = call(caller=None, trace_id="")
    identity = {key: value for key, value in IDENTITY.items() if key not in ("caller", "traceId")}
    assert _without_duration(written(event.completion(made, errors.Unauthenticated("TOKEN_EXPIRED", "Late.")))) == {
        "stage": "STAGE_COMPLETE",
        **identity,
        "outcome": "OUTCOME_DENIED",
        "status": "UNAUTHENTICATED",
        "reason": "TOKEN_EXPIRED",
        "message": "Late.",
    }


def test_a_call_that_failed(written: Any) -> None:
    """A failure of the cluster has the grant and the reason."""
    made = _decided()
    made.record.kubernetes_audit_id = "audit-1"
    assert _without_duration(written(event.completion(made, errors.Unavailable("KUBERNETES_UNREACHABLE", "Off.")))) == {
        **ASKED,
        "decision": DECISION,
        "grant": GRANT,
        "kubernetesAuditId": "audit-1",
        "outcome": "OUTCOME_FAILED",
        "status": "UNAVAILABLE",
        "reason": "KUBERNETES_UNREACHABLE",
        "message": "Off.",
    }


def test_a_call_that_was_given_up(written: Any) -> None:
    """A caller who goes away before anything was done leaves a cancelled call, without a reason."""
    assert _without_duration(written(event.completion(_asked(), None, cancelled=True))) == {
        **ASKED,
        "outcome": "OUTCOME_CANCELLED",
        "status": "CANCELLED",
    }


def test_a_token_that_nobody_took(written: Any) -> None:
    """A caller who goes away after the token was minted leaves an abandoned one, with its lease and jti."""
    made = replace(_issued(), abandoned=True)
    assert _without_duration(written(event.completion(made, None))) == {
        **ISSUED,
        "outcome": "OUTCOME_ABANDONED",
        "status": "OK",
    }


def test_an_outcome_that_nobody_knows(written: Any) -> None:
    """A request without an answer is neither a failure nor a success, whether the caller is still there or not."""
    for abandoned in (False, True):
        made = replace(_decided(), abandoned=abandoned)
        got = event.completion(made, errors.OutcomeUnknown("KUBERNETES_TIMED_OUT", "Who knows."))
        assert (got["outcome"], got["status"]) == ("OUTCOME_UNKNOWN", "UNKNOWN")
    assert _without_duration(written(got)) == {
        **ASKED,
        "decision": DECISION,
        "grant": GRANT,
        "outcome": "OUTCOME_UNKNOWN",
        "status": "UNKNOWN",
        "reason": "KUBERNETES_TIMED_OUT",
        "message": "Who knows.",
    }


def test_a_long_user_agent_is_cut(written: Any) -> None:
    """The user agent is the caller's to choose, and is cut at 256 characters."""
    got = written(event.completion(call(shown=shown({"user-agent": "x" * 1000})), None))
    assert got["userAgent"] == "x" * 256


# Through the whole server.


CONFIG = cs.Config(kubernetes_host="https://10.0.0.1:6443", service_account_jwt=SECRET)
ROLE = rs.Role(
    allowed_namespaces=["apps"],
    allowed_service_accounts=["deployer"],
    allowed_audiences=["https://api"],
    labels={"team": "payments"},
)
REQUEST_ID = "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c"
ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}", "x-request-id": REQUEST_ID, "user-agent": "grpcurl/1.9.4"}


async def _call(world: World, request: Any) -> Any:
    return await world.call(request, ADMIN)


def _last(world: World) -> dict[str, Any]:
    """The last line's own part, after every line was held against the proto."""
    lines = world.lines()
    for line in lines:
        in_proto_json(line)
    text = world.audit_file.read_text()
    assert SECRET not in text
    assert ADMIN_TOKEN not in text
    line = _without_duration(lines[-1])
    for field in ("sequence", "time", "previousHash", "hash"):
        assert line.pop(field)
    return line


def _by_admin(method: str, resource: str, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": "STAGE_COMPLETE",
        "method": f"kubevend.v1.{method}",
        "requestId": REQUEST_ID,
        "caller": {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"},
        "source": "ipv4:10.0.0.7:51234",
        "userAgent": "grpcurl/1.9.4",
        "resource": resource,
        "request": request,
        "decision": {"policies": ["everything"]},
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


async def test_a_config_that_was_made(world: World) -> None:
    """The line of a new config has its fields, without the credential and with the CA's fingerprint for the CA."""
    await _call(world, cs.CreateConfigRequest(config_id="default", config=CONFIG))
    assert _last(world) == _by_admin(
        "ConfigService/CreateConfig",
        "configs/default",
        {
            "configId": "default",
            "config": {"kubernetesHost": "https://10.0.0.1:6443", "serviceAccountJwt": ""},
        },
    )


async def test_a_config_that_was_refused(world: World) -> None:
    """The line of a config that breaks a rule has neither its credential nor its CA."""
    broken = cs.Config(kubernetes_host="http://x", service_account_jwt=SECRET, kubernetes_ca_cert="not a CA")
    with pytest.raises(Refused):
        await _call(world, cs.CreateConfigRequest(config_id="default", config=broken))
    got = _last(world)
    fingerprint = "sha256:b26ccfdbef7e3acc06d24bac5a2bc64dfed9d89a1a18a8b09ed62fcf32c2d2c9"
    assert got["request"]["config"]["kubernetesCaCert"].startswith("sha256:")
    assert len(got["request"]["config"]["kubernetesCaCert"]) == len(fingerprint)
    assert (got["outcome"], got["reason"]) == ("OUTCOME_FAILED", "CONFIG_INVALID")


async def test_changes_of_roles_and_configs(world: World) -> None:
    """Every change of a role and a config leaves its line, with what was asked."""
    await _call(world, cs.CreateConfigRequest(config_id="default", config=CONFIG))
    await _call(world, rs.CreateRoleRequest(role_id="ci", role=ROLE))
    role = {
        "allowedNamespaces": ["apps"],
        "allowedServiceAccounts": ["deployer"],
        "allowedAudiences": ["https://api"],
        "labels": {"team": "payments"},
    }
    assert _last(world) == _by_admin("RoleService/CreateRole", "roles/ci", {"roleId": "ci", "role": role})

    request = rs.UpdateRoleRequest(role=rs.Role(name="roles/ci"), update_mask=FieldMask(paths=["labels", "max_ttl"]))
    await _call(world, request)
    asked = {"role": {"name": "roles/ci"}, "updateMask": "labels,maxTtl"}
    assert _last(world) == _by_admin("RoleService/UpdateRole", "roles/ci", asked)

    await _call(world, rs.DeleteRoleRequest(name="roles/ci"))
    assert _last(world) == _by_admin("RoleService/DeleteRole", "roles/ci", {"name": "roles/ci"})

    changed = cs.Config(name="configs/default", service_account_jwt=SECRET + "2")
    await _call(world, cs.UpdateConfigRequest(config=changed))
    asked = {"config": {"name": "configs/default", "serviceAccountJwt": ""}}
    assert _last(world) == _by_admin("ConfigService/UpdateConfig", "configs/default", asked)

    await _call(world, cs.DeleteConfigRequest(name="configs/default"))
    assert _last(world) == _by_admin("ConfigService/DeleteConfig", "configs/default", {"name": "configs/default"})


async def _with_role(world: World) -> None:
    await _call(world, cs.CreateConfigRequest(config_id="default", config=CONFIG))
    await _call(world, rs.CreateRoleRequest(role_id="ci", role=ROLE))


async def test_an_issuance_leaves_two_lines(world: World) -> None:
    """An issuance leaves an intent and a completion, which agree on everything, and neither holds the token."""
    await _with_role(world)
    request = iss.IssueTokenRequest(role="roles/ci", ttl=Duration(seconds=3600))
    reply = await _call(world, request)
    intent = {key: value for key, value in world.lines()[-2].items() if key not in ("sequence", "time", "hash")}
    got = _last(world)
    assert got == {
        **_by_admin("IssueService/IssueToken", "roles/ci", {"role": "roles/ci", "ttl": "3600s"}),
        "decision": {"policies": ["everything"], "rules": [*granted().terms.rules[:3], "ttl: asked"]},
        "grant": {**GRANT, "ttl": "3600s"},
        "lease": reply.lease,
        "jti": reply.jti,
        "kubernetesAuditId": reply.kubernetes_audit_id,
        "expiration": "2026-05-04T13:00:00.000000Z",
        "tokenExpiration": "2026-05-04T13:00:00.000000Z",
    }
    assert intent.pop("previousHash")
    assert intent == {
        **{key: got[key] for key in ("method", "requestId", "caller", "source", "userAgent", "resource")},
        **{key: got[key] for key in ("grant", "lease", "kubernetesAuditId")},
        "stage": "STAGE_INTENT",
    }
    text = world.audit_file.read_text()
    assert reply.token not in text
    assert reply.token.split(".")[1] not in text


@pytest.mark.parametrize("answer", [b"no JSON", token_reply("not a jwt"), token_reply("a.bm8.c")])
async def test_an_answer_that_cannot_be_read_is_unknown(tmp_path: Path, answer: Any) -> None:
    """A success that is no TokenRequest is an unknown outcome, told as such, and nothing of the answer is logged."""
    world = World(tmp_path, connection=FakeConnection(answer))
    await _with_role(world)
    with pytest.raises(Refused):
        await _call(world, iss.IssueTokenRequest(role="roles/ci"))
    got = _last(world)
    world.close()
    assert (got["outcome"], got["status"], got["reason"]) == ("OUTCOME_UNKNOWN", "UNKNOWN", "KUBERNETES_UNREADABLE")


async def test_reading_leaves_no_line_unless_it_is_denied(world: World, tmp_path: Path) -> None:
    """A read that is allowed, or finds nothing, leaves no line; one that is denied, or comes from nobody, does."""
    await _with_role(world)
    before = len(world.lines())
    for request in (
        rs.GetRoleRequest(name="roles/ci"),
        rs.ListRolesRequest(),
        cs.ListConfigsRequest(),
        ls.ListLeasesRequest(),
    ):
        await _call(world, request)
    with pytest.raises(Refused):
        await _call(world, rs.GetRoleRequest(name="roles/none"))
    assert len(world.lines()) == before
    with pytest.raises(Refused):
        await world.call(rs.ListRolesRequest(), {})
    assert len(world.lines()) == before + 1
    (tmp_path / "closed").mkdir()
    closed = World(tmp_path / "closed", policies="")
    for request in (rs.GetRoleRequest(name="roles/none"), rs.ListRolesRequest(), ls.ListLeasesRequest()):
        with pytest.raises(Refused):
            await closed.call(request)
    outcomes = [line["outcome"] for line in closed.lines()]
    closed.close()
    assert outcomes == ["OUTCOME_DENIED"] * 3


def test_an_issued_token_shows_no_token() -> None:
    """The token stays out of its representation."""
    token = minted()
    issued = IssuedToken(token, "jti", ("a",), NOW, NOW, HOUR, "audit", ())
    assert token not in repr(issued)

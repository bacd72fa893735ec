from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2

from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import issue_service_pb2 as iss
from kubevend.v1 import lease_service_pb2 as ls
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server.config_rules import normalized
from kubevend_server.configs import Credential
from tests.unit.builders import NOW, SECRET, ca_certificate, lease
from tests.unit.test_lease_lists import add
from tests.unit.world import Refused, World

HOST, OTHER = "https://10.0.0.1:6443", "https://evil.com"
OWN = "https://10.96.0.1:443"
CA = ca_certificate()
FRESH = "a-fresh-token"


async def _refusal(world: World, request: Message) -> tuple[int, str, list[str]]:
    """The status, the reason and the fields at fault of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await world.call(request)
    reason = refused.value.detail(error_details_pb2.ErrorInfo).reason
    fields: list[str] = []
    if any(detail.Is(error_details_pb2.BadRequest.DESCRIPTOR) for detail in refused.value.status.details):
        bad = refused.value.detail(error_details_pb2.BadRequest)
        fields = [violation.field for violation in bad.field_violations]
    return refused.value.status.code, reason, fields


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[World]:
    """A world in a pod, whose settings allow one folder for token files."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    made = World(tmp_path, credential_folders={str(folder): ("*",)}, own_host=OWN)
    yield made
    made.close()


def _config(**fields: Any) -> cs.Config:
    return cs.Config(name="configs/default", kubernetes_host=HOST, **fields)


async def _create(world: World, config: cs.Config) -> cs.Config:
    reply: cs.CreateConfigResponse = await world.call(cs.CreateConfigRequest(config_id="default", config=config))
    return reply.config


def _update(*paths: str, **fields: Any) -> cs.UpdateConfigRequest:
    return cs.UpdateConfigRequest(
        config=cs.Config(name="configs/default", **fields), update_mask=FieldMask(paths=paths)
    )


def _stored(world: World) -> tuple[str, str, Credential]:
    (config,) = world.database.read_now(world.config_store.all)
    assert world.catalog.config("configs/default") == config
    return config.kubernetes_host, config.kubernetes_ca_cert, config.credential


KINDS: list[dict[str, str]] = [{"service_account_jwt": SECRET}, {"token_file": "FOLDER/a"}]


def _credential(world: World, credential: dict[str, str]) -> dict[str, str]:
    return {kind: value.replace("FOLDER", f"{world.folder}/tokens") for kind, value in credential.items()}


@pytest.mark.parametrize("credential", KINDS)
@pytest.mark.parametrize("moved", [{"kubernetes_host": OTHER}, {"kubernetes_ca_cert": CA}])
@pytest.mark.parametrize("masked", [True, False])
async def test_a_config_that_moves_needs_its_credential_again(
    tokens: World, credential: dict[str, str], moved: dict[str, str], masked: bool
) -> None:
    """Whoever changes host or CA and gives no credential is refused, with a mask and without, and nothing changes."""
    credential = _credential(tokens, credential)
    await _create(tokens, _config(**credential))
    before = _stored(tokens)
    paths = list(moved) if masked else []
    (kind,) = credential
    assert await _refusal(tokens, _update(*paths, **moved)) == (
        code_pb2.INVALID_ARGUMENT,
        "CREDENTIAL_REQUIRED",
        [f"config.{kind}"],
    )
    assert _stored(tokens) == before


@pytest.mark.parametrize("credential", KINDS)
@pytest.mark.parametrize("moved", [{"kubernetes_host": OTHER}, {"kubernetes_ca_cert": CA}])
@pytest.mark.parametrize("named", ["in_cluster", "token_file", "service_account_jwt"])
async def test_naming_a_credential_is_not_giving_it(
    tokens: World, credential: dict[str, str], moved: dict[str, str], named: str
) -> None:
    """A mask that names a credential, while the request holds none, does not carry the stored one to a new host."""
    await _create(tokens, _config(**_credential(tokens, credential)))
    before = _stored(tokens)
    code, _, _ = await _refusal(tokens, _update(*moved, named, **moved))
    assert code == code_pb2.INVALID_ARGUMENT
    assert _stored(tokens) == before


@pytest.mark.parametrize("paths", [[], ["*"], ["kubernetes_host", "service_account_jwt"]])
async def test_a_config_moves_with_its_credential(tokens: World, paths: list[str]) -> None:
    """Whoever gives the credential again may change the host."""
    await _create(tokens, _config(service_account_jwt=SECRET))
    await tokens.call(_update(*paths, kubernetes_host=OTHER, service_account_jwt=FRESH))
    assert _stored(tokens) == (OTHER, "", Credential("service_account_jwt", service_account_jwt=FRESH))


async def test_replacing_all_keeps_the_credential_at_home(tokens: World) -> None:
    """With `*` and no credential the stored one stays, and so it must not go to another host."""
    await _create(tokens, _config(service_account_jwt=SECRET))
    before = _stored(tokens)
    assert await _refusal(tokens, _update("*", kubernetes_host=OTHER)) == (
        code_pb2.INVALID_ARGUMENT,
        "CREDENTIAL_REQUIRED",
        ["config.service_account_jwt"],
    )
    assert _stored(tokens) == before


@pytest.mark.parametrize("paths", [[], ["*"], ["service_account_jwt"]])
async def test_what_is_read_can_be_written_back(tokens: World, paths: list[str]) -> None:
    """A client that reads a config and writes it back as it came, the credential's empty string included, does not
    lose the credential, and cannot move it so.
    """
    created = await _create(tokens, _config(service_account_jwt=SECRET))
    assert created.WhichOneof("credential") == "service_account_jwt"
    await tokens.call(cs.UpdateConfigRequest(config=created, update_mask=FieldMask(paths=paths)))
    stored = (HOST, "", Credential("service_account_jwt", service_account_jwt=SECRET))
    assert _stored(tokens) == stored
    (config,) = tokens.catalog.configs()
    created.etag, created.kubernetes_host = config.etag, OTHER
    mask = paths if "*" in paths or not paths else [*paths, "kubernetes_host"]
    moved = cs.UpdateConfigRequest(config=created, update_mask=FieldMask(paths=mask))
    assert (await _refusal(tokens, moved))[1] == "CREDENTIAL_REQUIRED"
    assert _stored(tokens) == stored


async def test_another_kind_of_credential_takes_the_place_of_the_stored_one(tokens: World) -> None:
    """A credential of another kind that is given, also with a new host, is the only one that is left."""
    await _create(tokens, _config(service_account_jwt=SECRET))
    file = f"{tokens.folder}/tokens/a"
    await tokens.call(_update("kubernetes_host", "token_file", kubernetes_host=OTHER, token_file=file))
    assert _stored(tokens) == (OTHER, "", Credential("token_file", token_file=file))
    request = _update("kubernetes_host", "in_cluster", kubernetes_host=OWN)
    request.config.in_cluster.SetInParent()
    await tokens.call(request)
    assert _stored(tokens) == (normalized(OWN), "", Credential("in_cluster"))


async def test_the_same_host_again_needs_no_credential(tokens: World) -> None:
    """An update that names the host and the CA that are there already keeps the stored credential."""
    await _create(tokens, _config(service_account_jwt=SECRET))
    await tokens.call(_update("kubernetes_host", "kubernetes_ca_cert", kubernetes_host=HOST))
    assert _stored(tokens) == (HOST, "", Credential("service_account_jwt", service_account_jwt=SECRET))


async def test_no_reply_holds_a_credential(tokens: World) -> None:
    """Neither Create nor Get nor List nor Update answers with the token; they tell its kind."""
    await _create(tokens, _config(service_account_jwt=SECRET))
    replies = [
        await tokens.call(cs.GetConfigRequest(name="configs/default")),
        await tokens.call(cs.ListConfigsRequest()),
        await tokens.call(_update(service_account_jwt=SECRET)),
    ]
    assert all(SECRET.encode() not in reply.SerializeToString() for reply in replies)
    assert replies[0].config.WhichOneof("credential") == "service_account_jwt"


async def test_validating_changes_nothing(world: World) -> None:
    """With validate_only a change is checked to the end and not made, and one that would be refused is refused."""
    config = _config(service_account_jwt=SECRET)
    await world.call(cs.CreateConfigRequest(config_id="default", config=config, validate_only=True))
    assert (world.catalog.configs(), world.database.read_now(world.config_store.all)) == ([], [])
    await _create(world, config)
    again = cs.CreateConfigRequest(config_id="default", config=config, validate_only=True)
    assert await _refusal(world, again) == (code_pb2.ALREADY_EXISTS, "CONFIG_EXISTS", [])
    await world.call(cs.DeleteConfigRequest(name="configs/default", validate_only=True))
    assert world.catalog.config("configs/default") is not None


# Roles.

ROLE = rs.Role(
    name="roles/ci",
    allowed_namespaces=["apps"],
    allowed_service_accounts=["deployer"],
    allowed_audiences=["https://api"],
)


async def _with_role(world: World) -> None:
    await _create(world, _config(service_account_jwt=SECRET))
    await world.call(rs.CreateRoleRequest(role_id="ci", role=ROLE))


@pytest.mark.parametrize("request_", [rs.UpdateRoleRequest(), cs.UpdateConfigRequest()], ids=["role", "config"])
async def test_a_mask_in_camel_case_is_the_callers_mistake(world: World, request_: Any) -> None:
    """A path as JSON writes it is refused as an argument; it cannot be written as proto JSON into the audit log, and
    that must not become a defect.
    """
    await _with_role(world)
    if isinstance(request_, rs.UpdateRoleRequest):
        sent: Message = rs.UpdateRoleRequest(role=ROLE, update_mask=FieldMask(paths=["maxTtl"]))
    else:
        sent = _update("kubernetesHost", kubernetes_host=HOST)
    assert (await _refusal(world, sent))[0] == code_pb2.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "ttl",
    [Duration(seconds=10**15), Duration(seconds=-(10**15)), Duration(nanos=-1), Duration(seconds=1, nanos=-1)],
)
async def test_a_duration_beyond_all_bounds_is_the_callers_mistake(world: World, ttl: Duration) -> None:
    """A duration that protobuf itself does not allow is refused as an argument by both ways to write a role."""
    await _with_role(world)
    role = rs.Role()
    role.CopyFrom(ROLE)
    role.ttl.CopyFrom(ttl)
    assert (await _refusal(world, rs.UpdateRoleRequest(role=role)))[0] == code_pb2.INVALID_ARGUMENT
    assert (await _refusal(world, rs.CreateRoleRequest(role_id="x", role=role)))[0] == code_pb2.INVALID_ARGUMENT


@pytest.mark.parametrize("moment", [Timestamp(seconds=10**15), Timestamp(seconds=-(10**15)), Timestamp(nanos=-1)])
async def test_a_moment_beyond_all_time_is_the_callers_mistake(world: World, moment: Timestamp) -> None:
    """A timestamp that protobuf itself does not allow is refused as an argument, in a filter and in a field that is
    output only.
    """
    await _with_role(world)
    role = rs.Role()
    role.CopyFrom(ROLE)
    role.create_time.CopyFrom(moment)
    for request in (
        ls.ListLeasesRequest(filter=ls.LeaseFilter(expire_before=moment)),
        rs.CreateRoleRequest(role_id="x", role=role),
    ):
        try:
            await world.call(request)
        except Refused as refused:
            code = refused.status.code
            assert code == code_pb2.INVALID_ARGUMENT


async def test_a_changed_role_keeps_the_rules(world: World) -> None:
    """An update is held to the field rules as the role would be, and to the rules of roles."""
    await _with_role(world)
    empty = rs.UpdateRoleRequest(role=rs.Role(name="roles/ci"), update_mask=FieldMask(paths=["allowed_audiences"]))
    assert await _refusal(world, empty) == (
        code_pb2.INVALID_ARGUMENT,
        "FIELD_INVALID",
        ["role.allowed_audiences"],
    )
    short = rs.UpdateRoleRequest(role=rs.Role(name="roles/ci", ttl=Duration(seconds=60)))
    assert await _refusal(world, short) == (code_pb2.INVALID_ARGUMENT, "ROLE_INVALID", ["role.ttl"])


HIDDEN = (
    '@id("lists") permit(principal, action in '
    '[Action::"ListRoles", Action::"ListLeases", Action::"WatchLeases", Action::"RevokeLeases"], resource is Server);'
)
SERVICES = ("ConfigService", "RoleService", "IssueService", "LeaseService")


NAMING_A_ROLE: list[Message] = [
    rs.GetRoleRequest(name="roles/ci"),
    rs.DeleteRoleRequest(name="roles/ci"),
    rs.UpdateRoleRequest(role=rs.Role(name="roles/ci", allowed_namespaces=["x"])),
    iss.IssueTokenRequest(role="roles/ci"),
    iss.IssueTokenRequest(role="roles/ci", namespace="other"),
    iss.IssueTokenRequest(role="roles/ci", validate_only=True),
    rs.DeleteRoleRequest(name="roles/ci", etag="other", validate_only=True),
    rs.UpdateRoleRequest(role=rs.Role(name="roles/ci", etag="other"), update_mask=FieldMask(paths=["labels"])),
    rs.UpdateRoleRequest(role=rs.Role(name="roles/ci", config="configs/none", ttl=Duration(seconds=60))),
    rs.CreateRoleRequest(role_id="ci", role=rs.Role(allowed_audiences=["x"])),
    iss.StreamTokensRequest(issue=iss.IssueTokenRequest(role="roles/ci")),
    ls.WatchLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")),
    ls.ListLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")),
    ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci")),
    ls.RevokeLeasesRequest(filter=ls.LeaseFilter(role="roles/ci"), end_shared=True, validate_only=True),
]


@pytest.mark.parametrize("request_", NAMING_A_ROLE, ids=lambda request: type(request).__name__)
async def test_a_role_that_may_not_be_seen_answers_like_none(tmp_path: Path, request_: Message) -> None:
    """For a caller who may not see it, a role that is there, with a lease, and one that is not give the same answer or
    the same status, to the byte: every method that takes the name of a role.
    """
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    made = World(tmp_path / "with")
    await _with_role(made)
    add(made.database, lease(tokens=()))
    made.close()
    seen: list[Message] = []
    for folder in ("with", "without"):
        world = World(tmp_path / folder, policies=HIDDEN)
        metadata = {
            "authorization": "Bearer kubevend-admin-for-the-tests",
            "x-request-id": "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c",
        }
        try:
            seen.append(await world.call(request_, metadata))
        except Refused as refused:
            seen.append(refused.status)
        world.close()
    codes = {"CreateRole": code_pb2.PERMISSION_DENIED, "ListLeases": 0, "WatchLeases": 0, "RevokeLeases": 0}
    name = type(request_).__name__.removesuffix("Request")
    assert getattr(seen[0], "code", 0) == codes.get(name, code_pb2.NOT_FOUND)
    assert seen[0].SerializeToString(deterministic=True) == seen[1].SerializeToString(deterministic=True)


def test_every_method_that_takes_a_role_is_tried() -> None:
    """What hides a role is tried on every method in whose request a role can be named."""
    taking = {
        method.name
        for service in SERVICES
        for method in descriptor_pool.Default().FindServiceByName(f"kubevend.v1.{service}").methods
        if service == "RoleService" or {"role", "filter", "issue"} & set(method.input_type.fields_by_name)
    }
    tried = {type(request).__name__.removesuffix("Request") for request in NAMING_A_ROLE}
    assert tried == taking - {"ListRoles"}


async def test_a_lease_is_listed_and_read(world: World) -> None:
    """A lease that an issuance left is found by list and by name, with its token's id and without the token."""
    await _with_role(world)
    issued = await world.call(iss.IssueTokenRequest(role="roles/ci", ttl=Duration(seconds=3600)))
    (listed,) = (await world.call(ls.ListLeasesRequest())).leases
    assert listed == (await world.call(ls.GetLeaseRequest(name=issued.lease))).lease
    granted, moment, end = Timestamp(), Timestamp(), Timestamp()
    granted.FromDatetime(NOW)
    # A token's times are the cluster's, in whole seconds.
    moment.FromDatetime(NOW.replace(microsecond=0))
    end.FromDatetime(NOW.replace(microsecond=0) + timedelta(hours=1))
    assert listed == ls.Lease(
        name=issued.lease,
        role="roles/ci",
        config="configs/default",
        caller="admin://local/bootstrap",
        namespace="apps",
        service_account="deployer",
        audiences=["https://api"],
        state=ls.Lease.STATE_ACTIVE,
        revocation=rs.REVOCATION_NONE,
        create_time=granted,
        expire_time=end,
        tokens=[
            ls.LeaseToken(
                jti=issued.jti,
                kubernetes_audit_id=issued.kubernetes_audit_id,
                issue_time=moment,
                expire_time=end,
            )
        ],
    )


async def test_a_validated_issuance_asks_nothing(world: World) -> None:
    """With validate_only the answer tells what would be granted; no cluster is asked, no lease is left."""
    await _with_role(world)
    reply = await world.call(iss.IssueTokenRequest(role="roles/ci", validate_only=True))
    assert (reply.token, reply.lease, reply.jti, reply.namespace) == ("", "", "", "apps")
    assert reply.granted_ttl.seconds == 1800
    assert world.connection.asked == []
    assert not (await world.call(ls.ListLeasesRequest())).leases


@pytest.mark.parametrize("token", ["é", "x", "AAAA"])
@pytest.mark.parametrize("kind", [rs.ListRolesRequest, cs.ListConfigsRequest, ls.ListLeasesRequest])
async def test_a_made_up_page_token_is_the_callers_mistake(world: World, kind: Any, token: str) -> None:
    """Every list refuses a page token that is none as an argument."""
    assert await _refusal(world, kind(page_token=token)) == (
        code_pb2.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
        ["page_token"],
    )

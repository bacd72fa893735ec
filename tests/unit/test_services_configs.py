from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from kubevend.v1 import config_service_pb2 as cs
from kubevend.v1 import role_service_pb2 as rs
from kubevend_server.configs import Credential
from kubevend_server.policy.access import AccessPolicy
from kubevend_server.policy.policies import Policies
from kubevend_server.store import leases
from tests.unit.builders import ADMIN_TOKEN, NOW, PERMIT_ALL, SECRET, ca_certificate, client_certificate, lease
from tests.unit.fake_cluster import HOST, OWN, ApiClusters, FakeApi, status
from tests.unit.world import Refused, World

OTHER = "https://evil.com"
PAIR, FRESH = client_certificate(), client_certificate()
STORED = cs.ClientCertificate(certificate=PAIR.certificate, private_key=PAIR.private_key)
SHOWN = cs.ClientCertificate(certificate=PAIR.certificate)
ADMIN = {"authorization": f"Bearer {ADMIN_TOKEN}", "x-request-id": "5f0c7f3e-64a7-4f11-8f0e-3b3f0f0a1b2c"}


def _create(config_id: str = "default", host: str = HOST, **fields: Any) -> cs.CreateConfigRequest:
    return cs.CreateConfigRequest(config_id=config_id, config=cs.Config(kubernetes_host=host, **fields))


def _update(*paths: str, name: str = "configs/default", **fields: Any) -> cs.UpdateConfigRequest:
    return cs.UpdateConfigRequest(config=cs.Config(name=name, **fields), update_mask=FieldMask(paths=paths))


def _role(role_id: str = "ci", **fields: Any) -> rs.CreateRoleRequest:
    made = {"allowed_namespaces": ["apps"], "allowed_service_accounts": ["deployer"], "allowed_audiences": ["a"]}
    return rs.CreateRoleRequest(role_id=role_id, role=rs.Role(**{**made, **fields}))


async def _refusal(world: World, request: Message) -> tuple[int, str, list[str]]:
    """The status, the reason and the fields at fault of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await world.call(request)
    found = refused.value
    bad = any(detail.Is(error_details_pb2.BadRequest.DESCRIPTOR) for detail in found.status.details)
    fields = [v.field for v in found.detail(error_details_pb2.BadRequest).field_violations] if bad else []
    return found.status.code, found.detail(error_details_pb2.ErrorInfo).reason, fields


def _stored(world: World) -> tuple[str, Credential]:
    (config,) = world.database.read_now(world.config_store.all)
    assert world.catalog.configs() == [config]
    return config.kubernetes_host, config.credential


def _event(world: World) -> dict[str, Any]:
    line = world.lines()[-1]
    for field in ("sequence", "time", "previousHash", "hash", "duration"):
        assert line.pop(field)
    return line


def _by_admin(method: str, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": "STAGE_COMPLETE",
        "method": f"kubevend.v1.ConfigService/{method}",
        "requestId": ADMIN["x-request-id"],
        "caller": {"name": "admin://local/bootstrap", "mechanism": "bootstrap_token"},
        "source": "ipv4:10.0.0.7:51234",
        "resource": "configs/default",
        "request": request,
        "decision": {"policies": ["everything"]},
        "outcome": "OUTCOME_SUCCEEDED",
        "status": "OK",
    }


# Client certificates.


async def test_a_client_certificate_is_read_back_without_its_key(world: World) -> None:
    """Create, Get, List and Update answer with the certificate and never with its key, which is stored all the same."""
    created = await world.call(_create(client_certificate=STORED))
    replies = [
        created,
        await world.call(cs.GetConfigRequest(name="configs/default")),
        await world.call(_update(client_certificate=STORED)),
        await world.call(cs.ListConfigsRequest()),
    ]
    assert [reply.config.client_certificate for reply in replies[:3]] == [SHOWN] * 3
    assert [config.client_certificate for config in replies[3].configs] == [SHOWN]
    assert _stored(world) == (HOST, PAIR.credential)


async def test_a_private_key_is_nowhere_in_clear(world: World) -> None:
    """Neither the store's files nor the audit log hold a client certificate's key, of a call that was refused too."""
    await world.call(_create(client_certificate=STORED))
    mixed = cs.ClientCertificate(certificate=FRESH.certificate, private_key=PAIR.private_key)
    assert await _refusal(world, _update(client_certificate=mixed)) == (
        code_pb2.INVALID_ARGUMENT,
        "CONFIG_INVALID",
        ["config.client_certificate"],
    )
    everything = b"".join(file.read_bytes() for file in world.folder.iterdir())
    assert b"configs/default" in everything
    secret = [line.encode() for line in PAIR.private_key.splitlines() if "-----" not in line]
    assert not [line for line in secret if line in everything]


async def test_the_event_of_a_client_certificate(world: World) -> None:
    """The lines of a config that was made and changed have the certificate, and an empty string for its key."""
    await world.call(_create(client_certificate=STORED), ADMIN)
    shown = {"certificate": PAIR.certificate}
    created = {"configId": "default", "config": {"kubernetesHost": HOST, "clientCertificate": shown}}
    assert _event(world) == _by_admin("CreateConfig", created)
    await world.call(_update("client_certificate", client_certificate=STORED), ADMIN)
    updated = {"config": {"name": "configs/default", "clientCertificate": shown}, "updateMask": "clientCertificate"}
    assert _event(world) == _by_admin("UpdateConfig", updated)


@pytest.mark.parametrize("paths", [[], ["*"], ["client_certificate"]])
async def test_a_client_certificate_can_be_written_back(world: World, paths: list[str]) -> None:
    """A client that reads a config and writes it back as it came does not lose the key, and cannot move it so."""
    created = (await world.call(_create(client_certificate=STORED))).config
    await world.call(cs.UpdateConfigRequest(config=created, update_mask=FieldMask(paths=paths)))
    assert _stored(world) == (HOST, PAIR.credential)
    (config,) = world.catalog.configs()
    created.etag, created.kubernetes_host = config.etag, OTHER
    mask = paths if "*" in paths or not paths else [*paths, "kubernetes_host"]
    moved = cs.UpdateConfigRequest(config=created, update_mask=FieldMask(paths=mask))
    assert await _refusal(world, moved) == (
        code_pb2.INVALID_ARGUMENT,
        "CREDENTIAL_REQUIRED",
        ["config.client_certificate"],
    )
    assert _stored(world) == (HOST, PAIR.credential)


async def test_another_certificate_needs_its_key(world: World) -> None:
    """A new certificate without a key does not take the stored one's, and with its own it takes its place, with
    another host too.
    """
    await world.call(_create(client_certificate=STORED))
    bare = _update(client_certificate=cs.ClientCertificate(certificate=FRESH.certificate))
    assert (await _refusal(world, bare))[1:] == ("CONFIG_INVALID", ["config.client_certificate"])
    assert _stored(world) == (HOST, PAIR.credential)
    whole = cs.ClientCertificate(certificate=FRESH.certificate, private_key=FRESH.private_key)
    await world.call(_update("kubernetes_host", "client_certificate", kubernetes_host=OTHER, client_certificate=whole))
    assert _stored(world) == (OTHER, FRESH.credential)


async def test_one_secret_does_not_become_another(world: World) -> None:
    """An empty token in place of a client certificate, and the other way round, is refused: it is not the stored
    secret.
    """
    await world.call(_create(client_certificate=STORED))
    assert (await _refusal(world, _update(service_account_jwt="")))[1] in {"CONFIG_INVALID", "FIELD_INVALID"}
    await world.call(_update(service_account_jwt=SECRET))
    assert (await _refusal(world, _update(client_certificate=SHOWN)))[1] == "CONFIG_INVALID"
    assert _stored(world) == (HOST, Credential("service_account_jwt", service_account_jwt=SECRET))


@pytest.mark.parametrize("path", ["client_certificate.private_key", "client_certificate_files.certificate_file"])
async def test_a_part_of_a_credential_cannot_be_changed(world: World, path: str) -> None:
    """A credential is replaced as a whole."""
    await world.call(_create(client_certificate=STORED))
    assert (await _refusal(world, _update(path, client_certificate=STORED)))[1:] == (
        "UPDATE_MASK_INVALID",
        ["update_mask"],
    )


async def test_certificate_files_are_read_back(tmp_path: Path) -> None:
    """The paths of a client certificate's files come back as they were given, and must be given again for another
    host.
    """
    world = World(tmp_path, credential_folders={str(tmp_path): ("*",)})
    files = cs.ClientCertificateFiles(
        certificate_file=str(tmp_path / "tls.crt"), private_key_file=str(tmp_path / "tls.key")
    )
    created = (await world.call(_create(client_certificate_files=files))).config
    assert created.client_certificate_files == files
    assert (await _refusal(world, _update(kubernetes_host=OTHER)))[1] == "CREDENTIAL_REQUIRED"
    await world.call(_update(kubernetes_host=OTHER, client_certificate_files=files))
    host, credential = _stored(world)
    assert (host, credential.kind, credential.secret) == (OTHER, "client_certificate_files", "")
    world.close()


NOT_MEANT = "The host or the CA changes, and the stored credential was not meant for the new one"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            _update(kubernetes_host=OTHER),
            (
                f"{NOT_MEANT}: give configs/default its credential again, in the same UpdateConfig, as "
                "service_account_jwt "
                "and, where there is an update_mask, named in it."
            ),
        ),
        (
            _update("kubernetes_host", kubernetes_host=OTHER, service_account_jwt=SECRET),
            (
                f"{NOT_MEANT}; the request gives service_account_jwt, but update_mask does not name it: add "
                "service_account_jwt to update_mask."
            ),
        ),
        (
            _update("kubernetes_host", "token_file", kubernetes_host=OTHER),
            (
                "update_mask names token_file, but the request holds no credential: give what update_mask names in the "
                "same UpdateConfig, or name no credential in update_mask."
            ),
        ),
    ],
)
async def test_a_credential_that_is_missing_is_asked_for(
    world: World, request_: cs.UpdateConfigRequest, told: str
) -> None:
    """Whoever moves a config is told how to give its credential, and whoever gave it without effect, why."""
    await world.call(_create(service_account_jwt=SECRET))
    with pytest.raises(Refused) as refused:
        await world.call(request_)
    assert refused.value.status.message == told
    assert refused.value.detail(error_details_pb2.ErrorInfo).reason == "CREDENTIAL_REQUIRED"
    assert _stored(world) == (HOST, Credential("service_account_jwt", service_account_jwt=SECRET))


async def test_live_leases_are_told_before_a_missing_credential(world: World) -> None:
    """A move that must wait for leases is refused for them first, and with validate_only too."""
    await world.call(_create(service_account_jwt=SECRET))
    with world.database.writer.begin() as connection:
        for table, row in leases.rows(lease()):
            connection.execute(sa.insert(table).values(row))
    move = _update(kubernetes_host=OTHER)
    for move.validate_only in (False, True):
        assert await _refusal(world, move) == (code_pb2.FAILED_PRECONDITION, "CONFIG_IN_USE", [])
        assert _event(world)["reason"] == "CONFIG_IN_USE"


async def test_the_pods_own_credential_is_given_again_for_another_ca(tmp_path: Path) -> None:
    """Another CA for the pod's own API server would show the pod's token to whoever it vouches for: so the update
    must say in_cluster, which its host, being the pod's own, need not.
    """
    own, ca = "https://10.96.0.1", ca_certificate()
    world = World(tmp_path, own_host=f"{own}:443")
    await world.call(_create(host=""))
    for request in (_update(kubernetes_ca_cert=ca), _update("*", kubernetes_ca_cert=ca)):
        assert await _refusal(world, request) == (
            code_pb2.INVALID_ARGUMENT,
            "CREDENTIAL_REQUIRED",
            ["config.in_cluster"],
        )
    await world.call(_update(kubernetes_host=own))
    await world.call(_update(kubernetes_ca_cert=ca, in_cluster=cs.InClusterCredential()))
    (config,) = world.catalog.configs()
    assert (config.kubernetes_host, config.kubernetes_ca_cert) == (own, ca)
    world.close()


# What may be changed, and what may be seen.


async def test_labels_are_kept_and_changed_alone(world: World) -> None:
    """A config's labels come back as they were given, after a start too, and a mask that names them changes them and
    nothing else.
    """
    await world.call(_create(labels={"team": "payments", "ä": ""}, service_account_jwt=SECRET))
    (before,) = world.catalog.configs()
    assert before.labels == (("team", "payments"), ("ä", ""))
    assert world.database.read_now(world.config_store.all) == [before]
    await world.call(_update("labels", labels={"team": "web"}, kubernetes_host=OTHER))
    reply = await world.call(cs.GetConfigRequest(name="configs/default"))
    assert (dict(reply.config.labels), reply.config.kubernetes_host) == ({"team": "web"}, HOST)
    (after,) = world.database.read_now(world.config_store.all)
    assert (after.labels, after.credential) == ((("team", "web"),), before.credential)


async def test_the_labels_of_a_config_hold_for_its_roles(tmp_path: Path) -> None:
    """A policy can ask for the labels of the config that a role has, and of the one that it would have."""
    forbid = (
        '@id("prod") forbid(principal, action in [Action::"GetRole", Action::"DeleteRole", Action::"IssueToken"], '
        'resource) when { resource.config.hasTag("tier") && resource.config.getTag("tier") == "prod" };'
        '@id("new") forbid(principal, action in [Action::"CreateRole", Action::"UpdateRole"], resource) when '
        '{ context.proposed.config.hasTag("tier") && context.proposed.config.getTag("tier") == "prod" };'
    )
    world = World(tmp_path, policies=PERMIT_ALL + forbid)
    for config_id, labels in (("default", {"tier": "dev"}), ("prod", {"tier": "prod"})):
        await world.call(_create(config_id, labels=labels, service_account_jwt=SECRET))
    await world.call(_role())
    await world.call(rs.GetRoleRequest(name="roles/ci"))
    moved = rs.UpdateRoleRequest(
        role=rs.Role(name="roles/ci", config="configs/prod"), update_mask=FieldMask(paths=["config"])
    )
    for request in (_role("other", config="configs/prod"), moved):
        with pytest.raises(Refused, match="forbidden by the access policies new"):
            await world.call(request)
    await world.call(_update("labels", labels={"tier": "prod"}))
    with pytest.raises(Refused, match="roles/ci does not exist"):
        await world.call(rs.GetRoleRequest(name="roles/ci"))
    world.close()


async def test_a_team_is_held_to_its_own_configs(tmp_path: Path) -> None:
    """By labels as they are and as they would be a team changes its own config, and neither takes nor gives one."""
    own = '{0}.hasTag("team") && {0}.getTag("team") == "a"'
    policies = (
        '@id("own") permit(principal, action == Action::"UpdateConfig", resource) when '
        f"{{ {own.format('resource')} && {own.format('context.proposed')} }};"
        '@id("see") permit(principal, action in Action::"view", resource);'
        '@id("make") permit(principal, action == Action::"CreateConfig", resource) when '
        '{ context.proposed.hasTag("team") };'
    )
    world = World(tmp_path, policies=policies)
    await world.call(_create(labels={"team": "a"}, service_account_jwt=SECRET))
    await world.call(_update("labels", labels={"team": "a", "tier": "prod"}))
    with pytest.raises(Refused, match="may not UpdateConfig on configs/default: no access policy permits it"):
        await world.call(_update("labels", labels={"team": "b"}))
    world.policies.take(Policies(AccessPolicy(policies.replace('== "a"', '== "b"'))), NOW)
    with pytest.raises(Refused, match="may not UpdateConfig"):
        await world.call(_update("labels", labels={"team": "b"}))
    world.close()


LISTS = '@id("lists") permit(principal, action == Action::"ListConfigs", resource);'


@pytest.mark.parametrize(
    "request_",
    [
        _update(kubernetes_host=HOST),
        _update(kubernetes_host=OTHER),
        _update(kubernetes_host=OTHER, service_account_jwt=SECRET),
        _update("nothing", kubernetes_host=OTHER),
        _update("kubernetes_host", "token_file", kubernetes_host=OTHER),
        _update(kubernetes_host="http://no"),
        cs.UpdateConfigRequest(config=cs.Config(name="configs/default", etag="another", kubernetes_host=HOST)),
        cs.GetConfigRequest(name="configs/default"),
        cs.DeleteConfigRequest(name="configs/default"),
        cs.CheckConfigRequest(name="configs/default"),
    ],
    ids=lambda request: str(request).replace("\n", " "),
)
@pytest.mark.parametrize("policies", [LISTS, ""], ids=["may list", "may nothing"])
async def test_a_config_that_may_not_be_seen_answers_like_none(
    tmp_path: Path, request_: Message, policies: str
) -> None:
    """For a caller who may not see it, a config that is there and one that is not give the same status, to the byte,
    also where the change would fail by itself.
    """
    seen = []
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        if name == "with":
            made = World(tmp_path / name)
            await made.call(_create(client_certificate=STORED))
            made.close()
        world = World(tmp_path / name, policies=policies)
        with pytest.raises(Refused) as refused:
            await world.call(request_, ADMIN)
        world.close()
        seen.append(refused.value.status)
    assert seen[0].code == code_pb2.NOT_FOUND
    assert seen[0] == seen[1]


async def test_an_update_that_fails_for_a_stranger_is_a_denial(tmp_path: Path) -> None:
    """A change of a config that the caller may not see is a denial in the log, also where it would fail by itself."""
    made = World(tmp_path)
    await made.call(_create(client_certificate=STORED))
    made.close()
    world = World(tmp_path, policies=LISTS)
    for request in (_update(kubernetes_host=OTHER), _update("nothing", kubernetes_host=HOST)):
        assert (await _refusal(world, request))[1] == "CONFIG_NOT_FOUND"
        event = _event(world)
        assert (event["outcome"], event["reason"]) == ("OUTCOME_DENIED", "CONFIG_NOT_FOUND")
    world.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[World]:
    """A world whose callers may see all, and write configs of one host and without files."""
    made = World(
        tmp_path,
        policies=(
            '@id("sees") permit(principal, action in Action::"view", resource);'
            '@id("writes") permit(principal, action in [Action::"CreateConfig", Action::"UpdateConfig"], resource) '
            f'when {{ context.kubernetes_host == "{HOST}" }};'
            '@id("no-files") forbid(principal, action in [Action::"CreateConfig", Action::"UpdateConfig"], resource) '
            "when { !context.credential_files.isEmpty() };"
        ),
        credential_folders={str(tmp_path): ("*",)},
    )
    yield made
    made.close()


async def test_a_config_is_held_to_the_host_of_the_policy(held: World) -> None:
    """Whoever may write configs of one host makes them and changes them there, and moves none to another one, whether
    they give its credential or not.
    """
    denied: tuple[int, str, list[str]] = (code_pb2.PERMISSION_DENIED, "ACCESS_DENIED", [])
    await held.call(_create(service_account_jwt=SECRET))
    await held.call(_update(service_account_jwt=SECRET + "2"))
    before = _stored(held)
    assert await _refusal(held, _create("other", OTHER, service_account_jwt=SECRET)) == denied
    assert await _refusal(held, _update(kubernetes_host=OTHER, service_account_jwt=SECRET)) == denied
    assert await _refusal(held, _update("*", kubernetes_host=OTHER, service_account_jwt=SECRET)) == denied
    assert _stored(held) == before == (HOST, Credential("service_account_jwt", service_account_jwt=SECRET + "2"))


SPELLINGS = ["https://Evil.com", "https://EVIL.COM:443", "https://evil.com:0443"]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_a_host_dodges_a_forbid(tmp_path: Path, host: str) -> None:
    """A policy that forbids a host forbids it however it is written, in a new config and in one that moves."""
    forbid = (
        '@id("not-evil") forbid(principal, action in [Action::"CreateConfig", Action::"UpdateConfig"], resource) '
        f'when {{ context.kubernetes_host == "{OTHER}" }};'
    )
    world = World(tmp_path, policies=PERMIT_ALL + forbid)
    await world.call(_create(service_account_jwt=SECRET))
    for request in (
        _create("other", host, service_account_jwt=SECRET),
        _update(kubernetes_host=host, service_account_jwt=SECRET),
    ):
        assert (await _refusal(world, request))[1] == "ACCESS_DENIED"
        assert _event(world)["decision"] == {"policies": ["not-evil"]}
    assert _stored(world)[0] == HOST
    world.close()


@pytest.mark.parametrize("host", SPELLINGS)
async def test_a_host_is_read_back_in_one_form(world: World, host: str) -> None:
    """Replies, catalog and store have a config's host in one form, and giving it again as it was written is no move."""
    created = await world.call(_create(host=host, service_account_jwt=SECRET))
    updated = await world.call(_update(kubernetes_host=host))
    assert created.config.kubernetes_host == updated.config.kubernetes_host == OTHER
    assert _stored(world) == (OTHER, Credential("service_account_jwt", service_account_jwt=SECRET))
    assert (await world.call(cs.GetConfigRequest(name="configs/default"))).config.kubernetes_host == OTHER


async def test_a_config_is_held_to_the_files_of_the_policy(held: World) -> None:
    """A policy that forbids files forbids them in a new config and in a change, and the event names it."""
    file = str(held.folder / "token")
    await held.call(_create(service_account_jwt=SECRET))
    for request in (_create("other", token_file=file), _update(token_file=file)):
        assert (await _refusal(held, request))[1] == "ACCESS_DENIED"
        event = _event(held)
        assert (event["decision"], event["outcome"]) == ({"policies": ["no-files"]}, "OUTCOME_DENIED")


# CheckConfig.


def _check(item: str, state: str, message: str, **more: Any) -> cs.Check:
    return cs.Check(
        item=cs.Check.Item.Value(f"ITEM_{item}"), state=cs.Check.State.Value(f"STATE_{state}"), message=message, **more
    )


PERMISSION = {
    "namespace": "apps",
    "service_account": "deployer",
    "roles": ["roles/ci"],
    "metadata": {"identity": OWN, "verb": "create", "resource": "serviceaccounts/token"},
}
WAY = [
    _check("REACHABLE", "PASSED", f"{HOST} answers."),
    _check("TRUSTED", "PASSED", "Its certificate is for that name, and vouched for by the system's authorities."),
    _check("KUBERNETES", "PASSED", "It is Kubernetes v1.37.0."),
    _check("CLOCK", "PASSED", "Its clock and kubevend's agree to within seconds.", metadata={"skew": "0"}),
    _check(
        "CREDENTIAL",
        "PASSED",
        f"The cluster accepts the stored token as {OWN}. It does not expire.",
        metadata={"identity": OWN},
    ),
]


def _checked(folder: Path, api: FakeApi, policies: str = PERMIT_ALL) -> World:
    return World(folder, policies=policies, clusters=ApiClusters(api))


async def test_a_check_tells_everything(tmp_path: Path) -> None:
    """A config that is well has an item for each thing, the identity, and nothing to add; the call leaves its line."""
    world = _checked(tmp_path, FakeApi())
    await world.call(_create(service_account_jwt=SECRET))
    await world.call(_role())
    reply = await world.call(cs.CheckConfigRequest(name="configs/default"), ADMIN)
    assert reply == cs.CheckConfigResponse(
        passed=True,
        identity=OWN,
        checks=[
            *WAY,
            _check(
                "PERMISSION",
                "PASSED",
                f"{OWN} may request tokens of deployer in namespace apps: a binding",
                **PERMISSION,
            ),
            _check(
                "SERVICE_ACCOUNT",
                "PASSED",
                "ServiceAccount apps/deployer exists.",
                namespace="apps",
                service_account="deployer",
                roles=["roles/ci"],
            ),
        ],
    )
    assert _event(world) == _by_admin("CheckConfig", {"name": "configs/default"})
    world.close()


async def test_a_check_that_fails_is_an_answer(tmp_path: Path) -> None:
    """What fails at the cluster is an item with the reason that an issuance would have, and the RBAC that is missing,
    not an error of the call.
    """
    world = _checked(tmp_path, FakeApi(rights=set()))
    await world.call(_create(service_account_jwt=SECRET))
    await world.call(_role())
    reply = await world.call(cs.CheckConfigRequest(name="configs/default"))
    message = (
        f"{OWN} may not request tokens of deployer in namespace apps, or the namespace does not exist (create on "
        "serviceaccounts/token)."
    )
    failed = _check("PERMISSION", "FAILED", message, reason="KUBERNETES_FORBIDDEN", **PERMISSION)
    unknown = _check("SERVICE_ACCOUNT", "SKIPPED", "Not known without the right to request its tokens.", **PERMISSION)
    unknown.metadata.clear()
    assert (reply.passed, reply.identity, list(reply.checks)) == (False, OWN, [*WAY, failed, unknown])
    assert [line for line in reply.missing_rbac.splitlines() if line.startswith("kind:")] == [
        "kind: Role",
        "kind: RoleBinding",
    ]
    world.close()


async def test_a_check_looks_at_the_roles_of_its_config_that_may_be_seen(tmp_path: Path) -> None:
    """Roles of other configs, and roles that the caller may not get, are neither looked at nor named."""
    api = FakeApi(rights=set())
    made = _checked(tmp_path, api)
    await made.call(_create(service_account_jwt=SECRET))
    await made.call(_create("other", service_account_jwt=SECRET))
    await made.call(_role("mine", labels={"team": "a"}))
    await made.call(_role("theirs", labels={"team": "b"}, allowed_service_accounts=["secret"]))
    await made.call(_role("elsewhere", labels={"team": "a"}, config="configs/other", allowed_namespaces=["web"]))
    made.close()
    policies = (
        '@id("checks") permit(principal, action == Action::"CheckConfig", resource);'
        '@id("own") permit(principal, action == Action::"GetRole", resource) when '
        '{ resource.hasTag("team") && resource.getTag("team") == "a" };'
    )
    world = _checked(tmp_path, api, policies)
    reply = await world.call(cs.CheckConfigRequest(name="configs/default"))
    assert [list(check.roles) for check in reply.checks if check.namespace] == [["roles/mine"]] * 2
    assert "secret" not in str(reply)
    assert "theirs" not in str(reply)
    world.close()


async def test_a_check_never_shows_a_credential(tmp_path: Path) -> None:
    """Neither the answer nor the event of a check holds the token with which the cluster is asked."""
    world = _checked(tmp_path, FakeApi(instead={"selfsubjectreviews": status(401)}))
    await world.call(_create(service_account_jwt=SECRET))
    reply = await world.call(cs.CheckConfigRequest(name="configs/default"))
    assert [check.reason for check in reply.checks if check.reason] == ["KUBERNETES_UNAUTHORIZED"]
    assert SECRET not in str(reply) + str(world.lines())
    world.close()


def use(clusters: ApiClusters, world: World) -> None:
    """Connect configs/default, as an issuance does."""
    of = world.catalog.config("configs/default")
    assert of is not None
    clusters.of(of)


async def test_a_deleted_config_is_disconnected(tmp_path: Path) -> None:
    """With a config its connections go, and not before it is gone."""
    clusters = ApiClusters(FakeApi())
    world = World(tmp_path, clusters=clusters)
    await world.call(_create(service_account_jwt=SECRET))
    use(clusters, world)
    await world.call(cs.DeleteConfigRequest(name="configs/default", validate_only=True))
    await asyncio.sleep(0)
    assert [made.retired for made in clusters.made] == [False]
    await world.call(cs.DeleteConfigRequest(name="configs/default"))
    await asyncio.sleep(0)
    assert [made.retired for made in clusters.made] == [True]
    world.close()


async def test_a_changed_config_is_connected_anew(tmp_path: Path) -> None:
    """After an update the next call goes over a new connection, and the old one is retired."""
    clusters = ApiClusters(FakeApi())
    world = World(tmp_path, clusters=clusters)
    await world.call(_create(service_account_jwt=SECRET))
    for expected in ([False], [False]):
        use(clusters, world)
        assert [made.retired for made in clusters.made] == expected
    await world.call(_update(service_account_jwt=SECRET + "2"))
    use(clusters, world)
    await asyncio.sleep(0)
    assert [made.retired for made in clusters.made] == [True, False]
    world.close()

"""CheckConfig, and `kubevend-server check` and `rbac`, on the real API server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from devcluster import DevCluster
from kubevend.v1 import config_service_pb2 as pb
from kubevend.v1 import role_service_pb2
from kubevend_server.cli import main
from tests.integration.conftest import Start, Vending
from tests.support.clusters import VENDOR, token_requests
from tests.support.https import impostor, reply
from tests.support.identities import client_certificate, expired_token
from tests.support.proxy import HoldingProxy
from tests.support.waiting import until

Item, State = pb.Check.Item, pb.Check.State

REACHING = ["REACHABLE", "TRUSTED", "KUBERNETES", "CLOCK", "CREDENTIAL"]


def look(vending: Vending, config: str = "default") -> pb.CheckConfigResponse:
    """Have a config looked at."""
    admin = vending.admin
    return admin.call(admin.configs.CheckConfig, pb.CheckConfigRequest(name=f"configs/{config}"))


def passing(vending: Vending) -> pb.CheckConfigResponse | None:
    """What a check of configs/default answers, or None while it does not pass."""
    found = look(vending)
    return found if found.passed else None


def states(reply: pb.CheckConfigResponse) -> list[tuple[str, str, str]]:
    """Each item with its state and its reason, in order."""
    return [
        (Item.Name(c.item).removeprefix("ITEM_"), State.Name(c.state).removeprefix("STATE_"), c.reason)
        for c in reply.checks
    ]


@pytest.fixture
def lifelong(vending: Vending, cluster: DevCluster) -> Vending:
    """A server whose configs/default has a credential that nothing has to be said of."""
    file = vending.server.folder / "credentials" / "kubevend"
    file.write_text(cluster.token("kubevend", "kubevend"))
    config = pb.Config(name="configs/default", token_file=str(file))
    vending.admin.call(vending.admin.configs.UpdateConfig, pb.UpdateConfigRequest(config=config))
    return vending


def test_a_config_that_works(lifelong: Vending, cluster: DevCluster, namespace: str) -> None:
    """Every item passes, says what was found, and nothing is missing; the cluster mints nothing for it."""
    found = look(lifelong)

    assert states(found) == [(item, "PASSED", "") for item in [*REACHING, "PERMISSION", "SERVICE_ACCOUNT"]]
    assert (found.passed, found.identity, found.missing_rbac) == (True, VENDOR, "")
    permission = found.checks[5]
    assert (permission.namespace, permission.service_account, list(permission.roles)) == (
        namespace,
        "demo",
        ["roles/ci"],
    )
    assert f'RoleBinding "kubevend/{namespace}"' in permission.message
    assert "It is Kubernetes v1.37" in found.checks[2].message
    asked = list(token_requests(cluster, namespace))
    assert [entry["responseStatus"]["code"] for entry in asked] == [422]


def test_what_is_missing_is_printed_and_suffices(lifelong: Vending, cluster: DevCluster, namespace: str) -> None:
    """The printed RBAC, applied as it stands, lets the next check pass, and gives no more than the roles need."""
    second = f"{namespace}-b"
    for name in ("web", "db"):
        cluster.kubectl("create", "serviceaccount", name, f"--namespace={namespace}")
    cluster.kubectl("create", "namespace", second)
    cluster.kubectl("create", "serviceaccount", "job", f"--namespace={second}")
    admin = lifelong.admin
    admin.create_role("web", allowed_namespaces=[namespace], allowed_service_accounts=["demo", "web", "db"])
    admin.create_role("job", allowed_namespaces=[second], allowed_service_accounts=["job"])
    before = look(lifelong)

    cluster.apply(before.missing_rbac)
    after = until(lambda: passing(lifelong), "the rights to come into force")

    lacking = [(c.namespace, c.service_account, c.reason) for c in before.checks if c.state == State.STATE_FAILED]
    assert lacking == [
        (namespace, "db", "KUBERNETES_RESOURCE_NAMES"),
        (namespace, "web", "KUBERNETES_RESOURCE_NAMES"),
        (second, "job", "KUBERNETES_FORBIDDEN"),
    ]
    assert after.missing_rbac == ""
    assert admin.issue("roles/web", service_account_name="db").token
    assert admin.issue("roles/job").token
    assert may(cluster, namespace, "default") == may(cluster, second, "default") == "no"
    assert "ClusterRole" not in before.missing_rbac
    assert before.missing_rbac.count("\n# ") + before.missing_rbac.startswith("# ") == 4


def may(cluster: DevCluster, namespace: str, service_account: str) -> str:
    """Whether kubevend may request tokens of a ServiceAccount, as kubectl says it."""
    arguments = ("can-i", "create", f"serviceaccounts/{service_account}", "--subresource=token", f"--as={VENDOR}")
    try:
        return cluster.kubectl("auth", *arguments, f"--namespace={namespace}").strip()
    except Exception as error:
        if str(error).endswith("no") or str(error).endswith(": "):
            return "no"
        raise


def test_every_namespace_wants_a_cluster_role(start: Start, cluster: DevCluster) -> None:
    """A role for all namespaces is given a ClusterRole with resourceNames, for a user with a client certificate too."""
    vending = start()
    certificate, private_key = client_certificate(cluster, "check:wide/user")
    pair = pb.ClientCertificate(certificate=certificate, private_key=private_key)
    vending.add_config(cluster, client_certificate=pair)
    vending.admin.create_role(allowed_namespaces=["*"], allowed_service_accounts=["wide-demo"])
    before = look(vending)

    cluster.apply(before.missing_rbac)
    after = until(lambda: passing(vending), "the rights to come into force")

    assert states(before)[-1] == ("PERMISSION", "FAILED", "KUBERNETES_FORBIDDEN")
    assert before.identity == after.identity == "check:wide/user"
    assert 'resourceNames: ["wide-demo"]' in before.missing_rbac


def test_a_service_account_that_is_missing(lifelong: Vending, namespace: str) -> None:
    """A ServiceAccount that is not there is found without any right beyond that to request its tokens."""
    lifelong.admin.create_role("ghost", allowed_namespaces=[namespace], allowed_service_accounts=["ghost"])

    found = look(lifelong)

    (missing,) = [c for c in found.checks if c.state == State.STATE_FAILED]
    assert (missing.item, missing.reason) == (Item.ITEM_SERVICE_ACCOUNT, "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND")
    assert (missing.service_account, list(missing.roles), found.passed) == ("ghost", ["roles/ghost"], False)


@pytest.mark.parametrize(
    ("broken", "item", "reason"),
    [
        ("nobody there", "REACHABLE", "KUBERNETES_UNREACHABLE"),
        ("another CA", "TRUSTED", "KUBERNETES_UNTRUSTED"),
        ("another name", "TRUSTED", "KUBERNETES_UNTRUSTED"),
        ("no API server", "KUBERNETES", "NOT_KUBERNETES"),
        ("another cluster's token", "CREDENTIAL", "KUBERNETES_UNAUTHORIZED"),
        ("an expired token", "CREDENTIAL", "KUBERNETES_UNAUTHORIZED"),
        ("no file", "CREDENTIAL", "CREDENTIAL_UNUSABLE"),
    ],
)
def test_what_is_broken_shows_where(
    start: Start,
    cluster: DevCluster,
    capped_cluster: DevCluster,
    namespace: str,
    tmp_path: Path,
    broken: str,
    item: str,
    reason: str,
) -> None:
    """What fails shows at its own item; what comes before passed, and what comes after was not looked at."""
    vending = start()
    proxy = HoldingProxy(cluster.server, "127.0.0.2")
    with impostor(tmp_path, lambda handler: reply(handler, 404, b"<html>")) as (url, ca, _), proxy:
        fields: dict[str, Any] = {
            "nobody there": {"kubernetes_host": "https://127.0.0.1:9"},
            "another CA": {"kubernetes_ca_cert": capped_cluster.ca_file.read_text()},
            "another name": {"kubernetes_host": proxy.url},
            "no API server": {"kubernetes_host": url, "kubernetes_ca_cert": ca},
            "another cluster's token": {"service_account_jwt": capped_cluster.token("kubevend", "kubevend")},
            "an expired token": {"service_account_jwt": expired_token(cluster, "kubevend", "kubevend")},
            "no file": {"token_file": str(vending.server.folder / "credentials" / "none")},
        }[broken]
        vending.add_config(cluster, **fields)
        vending.admin.create_role(allowed_namespaces=[namespace])
        found = look(vending)
        refusal = vending.admin.issue_refused()

    place = REACHING.index(item)
    rest = [*REACHING[place + 1 :], "PERMISSION"]
    assert states(found) == [
        *((before, "PASSED", "") for before in REACHING[:place]),
        (item, "FAILED", reason),
        *((after, "SKIPPED", "") for after in rest),
    ]
    assert (found.passed, found.identity, found.missing_rbac) == (False, "", "")
    assert refusal.reason == reason


def test_a_token_that_will_end_is_told(vending: Vending) -> None:
    """A stored token that expires passes with a warning that says when, and that nothing renews it."""
    found = look(vending)

    credential = found.checks[4]
    assert (credential.state, credential.reason) == (State.STATE_WARNING, "CREDENTIAL_EXPIRES")
    assert f"It expires at {credential.metadata['expire_time']}. Nothing renews it" in credential.message
    assert found.passed


def test_callers_tokens(start: Start, cluster: DevCluster) -> None:
    """Where the settings have kubevend review callers' tokens at the same cluster, that right is looked at too."""
    cluster.kubectl("create", "serviceaccount", "reviewer", "--namespace=kubevend")
    folder = cluster.ca_file.parent / "reviewer-token"
    folder.write_text(cluster.token("kubevend", "reviewer"))
    reviewing = {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(folder)}
    vending = start({"callers": {"clusters": {"dev": reviewing}}})
    vending.add_config(cluster)
    before = look(vending)

    cluster.apply(before.missing_rbac)
    after = until(lambda: passing(vending), "the rights to come into force")

    assert states(before)[-1] == ("TOKEN_REVIEW", "FAILED", "KUBERNETES_FORBIDDEN")
    assert states(after)[-1] == ("TOKEN_REVIEW", "PASSED", "")
    assert "system:serviceaccount:kubevend:reviewer may review" in after.checks[-1].message


def test_roles_that_the_caller_may_not_get_stay_hidden(start: Start, cluster: DevCluster, namespace: str) -> None:
    """A check tells of those roles only that its caller may get."""
    policy = """
@id("admin") permit (principal is Admin, action, resource);
@id("secret") forbid (principal, action == Action::"GetRole", resource == Role::"roles/secret");
"""
    vending = start(policies=policy)
    vending.add_config(cluster)
    vending.admin.create_role("secret", allowed_namespaces=[namespace], allowed_service_accounts=["secret"])

    assert "secret" not in str(look(vending))


def test_a_check_is_recorded(lifelong: Vending) -> None:
    """A check calls the cluster with kubevend's own identity, so it leaves an event."""
    look(lifelong)

    (event,) = lifelong.events(method="kubevend.v1.ConfigService/CheckConfig")
    assert (event["resource"], event["outcome"]) == ("configs/default", "OUTCOME_SUCCEEDED")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kubevend-server on a terminal that is none."""
    command = [sys.executable, "-m", "kubevend_server.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_on_a_terminal(lifelong: Vending, cluster: DevCluster, namespace: str) -> None:
    """Beside the running server, `check` shows each item and fails, and `rbac` prints what kubectl apply then takes."""
    settings = str(lifelong.server.folder / "settings.toml")
    cluster.kubectl("create", "serviceaccount", "cli", f"--namespace={namespace}")
    lifelong.admin.create_role("cli", allowed_namespaces=[namespace], allowed_service_accounts=["cli"])

    before = run("check", "--settings", settings)
    printed = run("rbac", "--settings", settings)
    cluster.apply(printed.stdout)
    until(lambda: look(lifelong).passed, "the rights to come into force")
    after = run("check", "--settings", settings, "default")
    nothing = run("rbac", "--settings", settings)
    everything = run("rbac", "--settings", settings, "--all")

    assert (before.returncode, after.returncode, nothing.returncode) == (1, 0, 0)
    assert "✗ permission" in before.stdout
    assert "[KUBERNETES_RESOURCE_NAMES]" in before.stdout
    assert "RBAC is missing" in before.stdout
    assert "✓ service account" in after.stdout
    assert (nothing.stdout, nothing.stderr) == ("", "Nothing is missing.\n")
    assert '["cli", "demo"]' in everything.stdout


def test_rights_of_chosen_roles(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """With --role all that these roles need is printed, with its policies, and a word about the other roles."""
    settings = str(vending.server.folder / "settings.toml")
    vending.admin.create_role("ended", allowed_namespaces=[namespace], revocation=role_service_pb2.REVOCATION_PER_LEASE)
    vending.add_config(cluster, "other")
    vending.admin.create_role("elsewhere", config="configs/other", allowed_namespaces=[namespace])

    printed = run("rbac", "--settings", settings, "--role", "ended")
    of_two = run("rbac", "--settings", settings, "--role", "roles/ended", "--role", "elsewhere")
    of_none = run("rbac", "--settings", settings, "--role", "ghost")
    of_another = run("rbac", "--settings", settings, "--role", "elsewhere", "default")

    assert "the place of what the config's other roles have" in printed.stderr
    assert (printed.stdout.count("kind: ValidatingAdmissionPolicy\n"), printed.stdout.count("\nkind: Role\n")) == (2, 1)
    assert "roles/ci" not in printed.stdout
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=printed.stdout)
    assert "configs/default and configs/other" in of_two.stderr
    assert "There is no roles/ghost. There is roles/ci, roles/elsewhere, roles/ended." in of_none.stderr
    assert "roles/elsewhere is of configs/other, not of configs/default." in of_another.stderr


def test_rights_before_there_is_a_way_in(vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """With --identity all that the roles need is printed without asking the cluster, which cannot be asked yet."""
    settings = str(vending.server.folder / "settings.toml")
    vending.add_config(cluster, "new", kubernetes_host="https://127.0.0.1:9")
    vending.admin.create_role("new", config="configs/new", allowed_namespaces=[namespace])

    unknown = run("rbac", "--settings", settings, "new")
    printed = run("rbac", "--settings", settings, "new", "--identity", "system:serviceaccount:vend:vendor")

    assert unknown.returncode == 1
    assert "cannot be reached" in unknown.stderr
    assert "--identity" in unknown.stderr
    assert 'name: "vendor"\n    namespace: "vend"' in printed.stdout
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=printed.stdout)


def test_a_config_that_is_not_there() -> None:
    """The command says what it lacks."""
    done = CliRunner().invoke(main, ["check", "--settings", "/nowhere/settings.toml"])

    assert done.exit_code == 1
    assert "/nowhere/settings.toml cannot be read" in done.output


def test_it_reads_as_data(lifelong: Vending) -> None:
    """The answer in proto JSON, as grpcurl prints it, tells item, state and message in words."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415

    first = MessageToDict(look(lifelong))["checks"][0]

    assert first["item"] == "ITEM_REACHABLE"
    assert first["state"] == "STATE_PASSED"
    assert json.dumps(first)

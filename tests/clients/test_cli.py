"""The `kubevend` command, on a real server and a real API server, and under a real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import yaml

from devcluster import DevCluster
from kubevend.cli.kept import Kept
from kubevend.v1 import lease_service_pb2
from tests.docs.conftest import free_address
from tests.integration.conftest import Start, Vending
from tests.support.evidence import EVIDENCE
from tests.support.waiting import until

Run = Callable[..., "subprocess.CompletedProcess[str]"]

AUDIENCE = "https://kubernetes.default.svc"

COMMAND = Path(sys.executable).with_name("kubevend")

NO_GETTING = """
@id("all-but-getting")
permit (principal is Admin, action, resource) unless { action == Action::"GetRole" || action == Action::"GetConfig" };
"""


def call(
    environment: Mapping[str, str],
    *arguments: str,
    code: int = 0,
    said: str = "",
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command, which is to end with this code."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env={**environment, **(more or {})},
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done


def begin(start: Start, cluster: DevCluster, namespace: str, *policies: str) -> Vending:
    """A server that is where it was after a restart, too, with roles/ci."""
    begun = start({"listener": {"address": free_address()}}, *policies)
    begun.add_config(cluster)
    begun.admin.create_role(allowed_namespaces=[namespace])
    return begun


def environment_of(vending: Vending, folder: Path) -> dict[str, str]:
    """As `. .dev/env` leaves it, with a home of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "KUBEVEND_ADDRESS": vending.server.address,
        "KUBEVEND_CA_FILE": str(vending.server.folder / "ca.crt"),
        "KUBEVEND_TOKEN_FILE": str(vending.server.folder / "admin.token"),
    }


@pytest.fixture
def vending(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server with roles/ci."""
    return begin(start, cluster, namespace)


@pytest.fixture
def environment(vending: Vending, tmp_path: Path) -> dict[str, str]:
    """The bootstrap admin's."""
    return environment_of(vending, tmp_path)


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs the command."""
    return partial(call, environment)


def test_a_token_is_issued(run: Run, cluster: DevCluster, namespace: str) -> None:
    """`-o token` prints a token that works, JSON what grpcurl would, and the table no token."""
    token = run("issue", "ci", "-o", "token").stdout.strip()
    EVIDENCE.note_token(token)
    who = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", token=token))
    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:demo"

    reply = json.loads(run("issue", "roles/ci", "--ttl", "15m", "-o", "json").stdout)
    EVIDENCE.note_token(reply["token"])
    assert (reply["grantedTtl"], reply["namespace"]) == ("900s", namespace)

    shown = run("issue", "ci", "--ttl", "48h")
    assert "eyJ" not in shown.stdout
    assert "The TTL was shortened from 172800s to 86400s" in shown.stderr
    assert "nothing was issued" in run("issue", "ci", "--validate-only").stdout


def test_each_failure_has_its_exit_code(run: Run, vending: Vending) -> None:
    """What is not allowed, what is not there, what was asked wrongly and who is away are told apart, in words too."""
    denied = run("issue", "ci", "-n", "elsewhere", code=3)
    assert "reason: NAMESPACE_NOT_ALLOWED (PERMISSION_DENIED)" in denied.stderr
    assert run("issue", "nobody", code=4).stdout == ""
    assert "ttl" in run("issue", "ci", "--ttl", "1s", code=2).stderr
    assert "no lifetime" in run("issue", "ci", "--ttl", "soon", code=2).stderr
    assert "KUBEVEND_ADDRESS" in run("whoami", code=2, more={"KUBEVEND_ADDRESS": ""}).stderr
    run("role", "get", "nobody", code=4)
    vending.server.stop()
    run("issue", "ci", code=5)


def test_roles_are_kept_in_files(run: Run, namespace: str) -> None:
    """Roles are made, shown, changed and deleted from files, and somebody else's change is not undone."""
    made = {
        "name": "roles/shop",
        "allowedNamespaces": [namespace],
        "allowedServiceAccounts": ["demo"],
        "allowedAudiences": ["https://kubernetes.default.svc"],
        "ttl": "900s",
    }
    both = yaml.safe_dump_all([made, {**made, "name": "shop2"}])
    assert run("role", "create", "-f", "-", said=both).stdout == "roles/shop created\nroles/shop2 created\n"
    assert run("role", "list", "-o", "name").stdout.split() == ["roles/ci", "roles/shop", "roles/shop2"]
    run("role", "create", "-f", "-", said=both, code=6)

    shown = yaml.safe_load(run("role", "get", "shop", "-o", "yaml").stdout)
    assert shown["ttl"] == "900s"
    changed = {**shown, "ttl": "1200s"}
    assert run("role", "update", "-f", "-", said=json.dumps(changed)).stdout == "roles/shop updated\n"
    conflict = run("role", "update", "-f", "-", said=json.dumps(changed), code=6)
    assert "was changed by somebody else in the meantime" in conflict.stderr
    assert "ETAG_MISMATCH" in conflict.stderr
    assert "1200s" in run("role", "get", "shop").stdout

    run("role", "update", "-f", "-", "--field", "ttl", said="{name: shop, ttl: 600s}")
    run("role", "update", "-f", "-", "--field", "maxTtl", "--dry-run", said="{name: shop, maxTtl: 601s}")
    now = json.loads(run("role", "get", "roles/shop", "-o", "json").stdout)
    assert (now["ttl"], now.get("maxTtl"), now["allowedNamespaces"]) == ("600s", None, [namespace])
    run("role", "update", "-f", "-", said=yaml.safe_dump({**made, "ttl": None}))
    assert "ttl" not in json.loads(run("role", "get", "shop", "-o", "json").stdout)

    assert "did you mean ttl?" in run("role", "create", "-f", "-", said="{name: x, tll: 1s}", code=2).stderr
    run("role", "delete", "shop", "shop2", "--dry-run")
    assert run("role", "delete", "shop", "shop2").stdout == "roles/shop deleted\nroles/shop2 deleted\n"
    run("role", "get", "shop", code=4)


def test_configs_are_kept_in_files_and_their_secrets_stay(run: Run, cluster: DevCluster, namespace: str) -> None:
    """A config is made with its credential, which nothing shows, and stays what it is when the rest is changed."""
    secret = cluster.token("kubevend", "kubevend")
    EVIDENCE.note_token(secret)
    made = {"name": "other", "kubernetesHost": cluster.server, "kubernetesCaCert": cluster.ca_file.read_text()}
    created = run("config", "create", "-f", "-", said=json.dumps({**made, "serviceAccountJwt": secret}))
    assert created.stdout == "configs/other created\n"
    shown = [run("config", "get", "other", "-o", form).stdout for form in ("yaml", "json", "table", "name")]
    shown += [run("config", "list", "-o", form).stdout for form in ("yaml", "json", "table", "name")]
    assert [text for text in shown if "eyJ" in text] == []
    assert "service account jwt" in shown[2]

    edited = yaml.safe_load(shown[0])
    run("config", "update", "-f", "-", said=yaml.safe_dump({**edited, "labels": {"team": "shop"}}))
    role = {
        "name": "by-other",
        "config": "configs/other",
        "allowedNamespaces": [namespace],
        "allowedAudiences": [AUDIENCE],
    }
    run("role", "create", "-f", "-", said=json.dumps({**role, "allowedServiceAccounts": ["demo"]}))
    EVIDENCE.note_token(run("issue", "by-other", "-o", "token").stdout.strip())
    assert "CONFIG_IN_USE" in run("config", "delete", "other", code=1).stderr

    for broken in (f"{{name: x, serviceAccountJwt: [{secret}]}}", f"{{name: x, serviceAccountJwt: {secret}: x", secret):
        refused = run("config", "create", "-f", "-", said=broken, code=2)
        assert "eyJ" not in refused.stdout + refused.stderr


def test_leases_are_listed_and_ended(run: Run, vending: Vending) -> None:
    """Leases are shown by what they are about, and ended by name or by that, never all by accident."""
    first, second = vending.admin.issue().lease, vending.admin.issue().lease
    assert run("lease", "list", "--role", "ci", "-o", "name").stdout.split() == [second, first]
    assert run("lease", "get", first, "-o", "json").stdout
    run("lease", "revoke", code=2)
    assert "REVOKED" in run("lease", "revoke", first).stdout
    assert run("lease", "list", "--state", "active", "-o", "name").stdout.split() == [second]
    run("lease", "revoke", "--role", "ci", "--dry-run")
    assert run("lease", "list", "--state", "active", "-o", "name").stdout.split() == [second]
    run("lease", "revoke", "--role", "ci")
    assert run("lease", "list", "--state", "active", "-o", "name").stdout.split() == []


def test_a_cluster_is_checked(run: Run, vending: Vending) -> None:
    """`check` says what it looked at; where something is missing it ends with 1, and prints what would grant it."""
    found = run("check", "default")
    assert "configs/default, as system:serviceaccount:kubevend:kubevend" in found.stdout
    assert "FAILED" not in found.stdout
    assert run("check", "-o", "yaml").stdout.startswith("# Nothing is missing")

    vending.admin.create_role("elsewhere", allowed_namespaces=["kube-system"])
    (failed,) = [line for line in run("check", code=1).stdout.splitlines() if line.startswith("FAILED")]
    assert "kube-system" in failed
    rbac = run("config", "check", "configs/default", "-o", "yaml", code=1).stdout
    assert {each["kind"] for each in yaml.safe_load_all(rbac)} >= {"Role", "RoleBinding"}
    assert not json.loads(run("check", "-o", "json", code=1).stdout).get("passed", False)


def test_who_one_is(run: Run) -> None:
    """`whoami` says who the caller is to kubevend."""
    assert "admin://local/bootstrap" in run("whoami").stdout
    assert run("whoami", "-o", "name").stdout == "admin://local/bootstrap\n"


def test_a_context_stands_for_the_environment(run: Run, environment: dict[str, str]) -> None:
    """A context that is set is used where the environment says nothing, and one that is named goes before it."""
    none = {key: "" for key in environment if key.startswith("KUBEVEND_")}
    options = ["--address", environment["KUBEVEND_ADDRESS"], "--ca-file", environment["KUBEVEND_CA_FILE"]]
    run("context", "set", "dev", *options, "--token-file", environment["KUBEVEND_TOKEN_FILE"], more=none)
    run("context", "set", "gone", "--address", "127.0.0.1:1", more=none)
    assert run("context", "list", more=none).stdout.splitlines()[1].split() == ["*", "dev", options[1]]
    assert yaml.safe_load(run("context", "show").stdout)["dev"]["address"] == options[1]
    assert run("whoami", "-o", "name", more=none).stdout == "admin://local/bootstrap\n"
    run("whoami", "--context", "gone", code=5)
    run("whoami", "--context", "nobody", code=2)
    run("context", "use", "gone")
    run("whoami", code=5, more=none)
    run("whoami")
    run("context", "set", "gone", *options, more=none)
    assert "CREDENTIAL_MISSING" in run("whoami", code=3, more=none).stderr
    run("context", "delete", "gone")
    run("context", "use", "gone", code=2)


def test_shells_complete_it(run: Run) -> None:
    """Each shell's script is printed, and completes commands."""
    for shell in ("bash", "zsh", "fish"):
        assert "_KUBEVEND_COMPLETE" in run("completion", shell).stdout
    asked = {"_KUBEVEND_COMPLETE": "bash_complete", "COMP_WORDS": "kubevend ro", "COMP_CWORD": "1"}
    assert run(more=asked).stdout == "plain,role\n"
    asked = {"_KUBEVEND_COMPLETE": "bash_complete", "COMP_WORDS": "kubevend issue roles/c", "COMP_CWORD": "2"}
    assert run(more=asked).stdout == "plain,roles/ci\n"
    asked = {"_KUBEVEND_COMPLETE": "bash_complete", "COMP_WORDS": "kubevend credential ", "COMP_CWORD": "2"}
    assert run(more=asked).stdout == "plain,ci\n"
    nowhere = run(more={**asked, "KUBEVEND_ADDRESS": "127.0.0.1:1"})
    assert (nowhere.stdout.strip(), nowhere.stderr) == ("", "")


@pytest.fixture
def readable(cluster: DevCluster, namespace: str) -> str:
    """A namespace in which demo may read pods."""
    cluster.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods", "--namespace", namespace)
    subject = f"--serviceaccount={namespace}:demo"
    cluster.kubectl("create", "rolebinding", "reader", "--role=reader", subject, "--namespace", namespace)
    return namespace


def kubectl(cluster: DevCluster, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real kubectl, which knows nothing of the cluster but its kubeconfig."""
    command = [*cluster.kubectl_command, *arguments]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=300)


def issuances(vending: Vending) -> list[str]:
    """What became of each issuance."""
    events = vending.events(method="kubevend.v1.IssueService/IssueToken", stage="STAGE_COMPLETE")
    return [event["outcome"] for event in events]


def test_kubectl_gets_its_tokens_by_itself(
    run: Run, environment: dict[str, str], cluster: DevCluster, vending: Vending, readable: str, tmp_path: Path
) -> None:
    """With the kubeconfig that is written, 50 kubectl at once with nothing kept make one issuance, later ones none, and
    an outage of kubevend stops none of them.
    """
    kubeconfig = tmp_path / "kubeconfig"
    written = run("kubeconfig", "ci", "--namespace", readable, "--output", str(kubeconfig))
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert "eyJ" not in kubeconfig.read_text()
    of_kubectl = {"PATH": environment["PATH"], "HOME": environment["HOME"], "KUBECONFIG": str(kubeconfig)}

    with ThreadPoolExecutor(50) as threads:
        done = list(threads.map(lambda _: kubectl(cluster, of_kubectl, "get", "pods"), range(50)))
    vending.server.stop()
    later = kubectl(cluster, of_kubectl, "get", "pods")

    assert [each.stderr.strip() for each in [*done, later]] == [f"No resources found in {readable} namespace."] * 51
    assert issuances(vending) == ["OUTCOME_SUCCEEDED"]
    assert "--context kubevend-ci" in written.stderr


def test_kubectl_shows_why_there_is_no_token(
    run: Run, environment: dict[str, str], cluster: DevCluster, tmp_path: Path
) -> None:
    """What kubevend refuses, its user reads in kubectl's own words and kubevend's."""
    kubeconfig = tmp_path / "kubeconfig"
    run("kubeconfig", "ci", "-n", "elsewhere", "--server", cluster.server, "--output", str(kubeconfig))
    of_kubectl = {"PATH": environment["PATH"], "HOME": environment["HOME"], "KUBECONFIG": str(kubeconfig)}
    assert "NAMESPACE_NOT_ALLOWED" in kubectl(cluster, of_kubectl, "get", "pods").stderr


def test_another_version_of_the_plugin_is_refused(run: Run) -> None:
    """Kubectl is answered in the version that it asks for, or told what is wrong."""
    info = json.dumps({"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential"})
    refused = run("credential", "ci", code=1, more={"KUBERNETES_EXEC_INFO": info})
    assert "client.authentication.k8s.io/v1" in refused.stderr
    assert refused.stdout == ""


def test_a_kubeconfig_is_merged_into_another(
    run: Run, environment: dict[str, str], cluster: DevCluster, readable: str, tmp_path: Path
) -> None:
    """What else is in the file stays, its current context too; the new one works beside it, after a second merge."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_bytes(cluster.kubeconfig.read_bytes())
    before = yaml.safe_load(kubeconfig.read_text())
    for _ in range(2):
        run("kubeconfig", "ci", "-n", readable, "--merge", "--output", str(kubeconfig))

    after = yaml.safe_load(kubeconfig.read_text())
    assert after["current-context"] == before["current-context"]
    assert len(after["contexts"]) == len(before["contexts"]) + 1
    alone = {"PATH": environment["PATH"], "HOME": environment["HOME"], "KUBECONFIG": str(kubeconfig)}
    got = kubectl(cluster, alone, "--context", "kubevend-ci", "get", "pods")
    assert got.stderr.strip() == f"No resources found in {readable} namespace."


def test_a_kubeconfig_takes_the_current_cluster(
    start: Start, cluster: DevCluster, namespace: str, tmp_path: Path
) -> None:
    """Who may issue, but get neither role nor config, writes a kubeconfig for the current context's cluster."""
    environment = environment_of(begin(start, cluster, namespace, NO_GETTING), tmp_path)
    done = call(environment, "kubeconfig", "ci", more={"KUBECONFIG": str(cluster.kubeconfig)})
    written = yaml.safe_load(done.stdout)
    assert written["clusters"][0]["cluster"]["server"] == cluster.server
    assert "current context" in done.stderr
    nothing = call(environment, "kubeconfig", "ci", code=1)
    assert "Give --server and --certificate-authority" in nothing.stderr


def test_credentials_are_renewed(run: Run, environment: dict[str, str], vending: Vending) -> None:
    """A kept credential is given again until it is to be renewed; then another one takes its place, which lives longer;
    and with `--no-cache` each call has its own.
    """
    first = run("credential", "ci", "--ttl", "10m").stdout
    assert run("credential", "ci", "--ttl", "600s").stdout == first
    assert len(issuances(vending)) == 1
    status = json.loads(first)["status"]
    EVIDENCE.note_token(status["token"])
    ends = datetime.fromisoformat(status["expirationTimestamp"])
    left = ends - datetime.now(UTC)
    assert timedelta(minutes=8) < left < timedelta(minutes=10) - timedelta(seconds=25)

    age(Path(environment["HOME"]), 550)
    second = run("credential", "ci", "--ttl", "10m").stdout
    assert json.loads(second)["status"]["token"] != status["token"]
    assert len(issuances(vending)) == 2
    age(Path(environment["HOME"]), 550)
    vending.server.stop()
    bridged = run("credential", "ci", "--ttl", "10m")
    assert bridged.stdout == second
    assert "using the credential that is kept" in bridged.stderr
    age(Path(environment["HOME"]), 600)
    run("credential", "ci", "--ttl", "10m", code=5)
    vending.restart()
    run("credential", "ci", "--ttl", "10m", "--no-cache")
    run("credential", "ci", "--ttl", "10m", "--no-cache")
    assert len(issuances(vending)) == 4
    run("credential", "--clear")
    assert [*(Path(environment["HOME"]) / ".cache/kubevend/credentials").glob("*.credential")] == []


def age(home: Path, seconds: float) -> None:
    """Let so much of the life of a kept credential be over."""
    (file,) = (home / ".cache/kubevend/credentials").glob("*.credential")
    kept = Kept.of_text(file.read_text())
    assert kept is not None
    times = [time - seconds for time in (kept.begins, kept.renew_at, kept.usable_until)]
    file.write_text(Kept(kept.answer, *times).to_text())


def test_a_hostile_folder_keeps_no_credential(run: Run, environment: dict[str, str], vending: Vending) -> None:
    """Where others may look into the folder of the cache, nothing is issued, and kubectl's user reads why."""
    folder = Path(environment["HOME"]) / ".cache/kubevend/credentials"
    folder.mkdir(parents=True, mode=0o777)
    folder.chmod(0o777)
    refused = run("credential", "ci", code=1)
    assert (refused.stdout, issuances(vending)) == ("", [])
    assert f"chmod 700 {folder}" in refused.stderr
    folder.rmdir()
    folder.symlink_to(environment["HOME"])
    assert "--no-cache" in run("credential", "ci", code=1).stderr


def test_a_kept_credential_loads_next_to_nothing(run: Run, environment: dict[str, str]) -> None:
    """The short way to a kept credential loads neither click nor gRPC, protobuf or YAML, nor what loads them."""
    first = run("credential", "ci").stdout
    script = f"import sys; sys.argv = [{str(COMMAND)!r}, 'credential', 'ci']; from kubevend.cli import main; main(); "
    script += "print(*sys.modules, file=sys.stderr)"
    again = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == first
    loaded = {name.partition(".")[0] for name in again.stderr.split()}
    assert loaded.isdisjoint({"click", "google", "grpc", "yaml", "typing", "dataclasses", "pathlib", "json"})


def test_leases_are_watched(environment: dict[str, str], vending: Vending) -> None:
    """`lease watch` tells of a lease as it ends, and of no other one."""
    command = [str(COMMAND), "lease", "watch", "--role", "ci", "-o", "name"]
    heard: list[str] = []
    ended: list[str] = []

    def heard_after_one_more() -> bool:
        ended.append(vending.admin.issue().lease)
        vending.admin.call(vending.admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=ended[-1]))
        return bool(heard)

    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        told = watching.stdout
        assert told is not None
        reader = Thread(target=lambda: heard.extend(iter(told.readline, "")))
        reader.start()
        try:
            until(heard_after_one_more, "the end of a lease", 60)
        finally:
            watching.terminate()
            reader.join(30)
    assert {line.strip() for line in heard} <= set(ended)

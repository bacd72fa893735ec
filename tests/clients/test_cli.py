"""The `kubevend` command, on a real server and a real API server, and under a real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from devcluster import DevCluster
from tests.integration.conftest import Vending, cluster, empty_store, namespace, start, vending
from tests.support.evidence import EVIDENCE

__all__ = ["cluster", "empty_store", "namespace", "start", "vending"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]

COMMAND = Path(sys.executable).with_name("kubevend")


@pytest.fixture
def environment(vending: Vending, tmp_path: Path) -> dict[str, str]:
    """As `. .dev/env` leaves it, with a home of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "KUBEVEND_ADDRESS": vending.server.address,
        "KUBEVEND_CA_FILE": str(vending.server.folder / "ca.crt"),
        "KUBEVEND_TOKEN_FILE": str(vending.server.folder / "admin.token"),
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs the command."""

    def call(
        *arguments: str, code: int = 0, said: str = "", more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
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

    return call


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
    assert "etag" in run("role", "update", "-f", "-", said=json.dumps(changed), code=6).stderr
    assert "1200s" in run("role", "get", "shop").stdout

    assert "did you mean ttl?" in run("role", "create", "-f", "-", said="{name: x, tll: 1s}", code=1).stderr
    run("role", "delete", "shop", "shop2")
    run("role", "get", "shop", code=4)


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


def test_a_cluster_is_checked(run: Run) -> None:
    """`check` says what it looked at, and ends with 1 where something is missing."""
    found = run("check", "default", code=1)
    assert "configs/default, as system:serviceaccount:kubevend:kubevend" in found.stdout
    assert "FAILED" in found.stdout
    assert "kind: " in run("config", "check", "default", "-o", "rbac", code=1).stdout


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
    assert run("context", "list", more=none).stdout.startswith("* dev\t")
    assert run("whoami", "-o", "name", more=none).stdout == "admin://local/bootstrap\n"
    run("whoami", "--context", "gone", code=5)
    run("whoami", "--context", "nobody", code=2)
    run("context", "use", "gone")
    run("whoami", code=5, more=none)
    run("whoami")


def test_shells_complete_it(run: Run) -> None:
    """Each shell's script is printed, and completes commands."""
    for shell in ("bash", "zsh", "fish"):
        assert "_KUBEVEND_COMPLETE" in run("completion", shell).stdout
    asked = {"_KUBEVEND_COMPLETE": "bash_complete", "COMP_WORDS": "kubevend ro", "COMP_CWORD": "1"}
    assert run(more=asked).stdout == "plain,role\n"


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


def test_kubectl_gets_its_tokens_by_itself(
    run: Run, environment: dict[str, str], cluster: DevCluster, vending: Vending, readable: str, tmp_path: Path
) -> None:
    """With the kubeconfig that is written, 50 kubectl at once with nothing kept make one issuance, later ones none, and
    an outage of kubevend stops none of them.
    """
    kubeconfig = tmp_path / "kubeconfig"
    run("kubeconfig", "ci", "--namespace", readable, "--output", str(kubeconfig))
    assert "eyJ" not in kubeconfig.read_text()
    of_kubectl = {"PATH": environment["PATH"], "HOME": environment["HOME"], "KUBECONFIG": str(kubeconfig)}

    with ThreadPoolExecutor(50) as threads:
        done = list(threads.map(lambda _: kubectl(cluster, of_kubectl, "get", "pods"), range(50)))
    vending.server.stop()
    later = kubectl(cluster, of_kubectl, "get", "pods")

    assert [each.stderr.strip() for each in [*done, later]] == [f"No resources found in {readable} namespace."] * 51
    issued = vending.events(method="kubevend.v1.IssueService/IssueToken", stage="STAGE_COMPLETE")
    assert [event["outcome"] for event in issued] == ["OUTCOME_SUCCEEDED"]


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

"""deploy/agent: what is there to be copied, taken by a real API server, and run by real callers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY
from kubevend.v1 import lease_service_pb2
from tests.clients.test_agent import Running
from tests.integration.conftest import Start, Vending
from tests.support.clusters import make_namespace
from tests.support.evidence import EVIDENCE
from tests.support.issuer import Issuer
from tests.support.waiting import until

DEPLOY = Path(__file__).parents[2] / "deploy" / "agent"
NAMESPACE = "agent-deploy"
BIN = Path(sys.executable).parent
MOUNTS = re.compile(r"/var/run/secrets/kubevend|/etc/kubevend|/run/kubevend")

POLICY = """
@id("pods")
permit (principal is ServiceAccount, action == Action::"IssueToken", resource == Role::"roles/shop")
when { principal.name == "kubernetes://own/agent-deploy/shop" };
@id("jobs")
permit (principal is OidcSubject, action == Action::"IssueToken", resource == Role::"roles/deploy")
when { principal.hasTag("repository") && principal.getTag("repository") == "acme/shop" };
@id("own-leases")
permit (principal is OidcSubject, action == Action::"RevokeLease", resource) when { resource.caller == principal.name };
"""


def documents(name: str) -> list[dict[str, Any]]:
    """The documents of a file."""
    return [*yaml.safe_load_all((DEPLOY / name).read_text())]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """What signs the tokens of CI jobs."""
    with Issuer(tmp_path_factory.mktemp("ci")) as started:
        yield started


@pytest.fixture(scope="module")
def vending(
    start_for_all: Start, cluster: DevCluster, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Vending:
    """A server that knows the cluster's pods and the CI system's jobs, with roles/shop and roles/deploy."""
    make_namespace(cluster, NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    cluster.kubectl("apply", "-f", str(DEPLOY / "agent.yaml"), f"--namespace={NAMESPACE}")
    here = f"--namespace={NAMESPACE}"
    cluster.kubectl("create", "role", "deployer", "--verb=get,list,create,patch", "--resource=configmaps", here)
    cluster.kubectl("create", "rolebinding", "deployer", "--role=deployer", f"--serviceaccount={NAMESPACE}:demo", here)
    reviewer = tmp_path_factory.mktemp("reviewing") / "reviewer"
    reviewer.write_text(cluster.token("kubevend", "kubevend"))
    own = {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(reviewer)}
    ci = {"issuer": issuer.url, "ca_file": str(issuer.ca_file), "claims": ["repository", "ref"]}
    callers = {"clusters": {"own": own}, "issuers": {"ci": ci}}
    begun = start_for_all({"callers": callers}, policies=BOOTSTRAP_POLICY + POLICY)
    begun.add_config(cluster)
    for role in "shop", "deploy":
        begun.admin.create_role(role, allowed_namespaces=[NAMESPACE], ttl=timedelta(hours=1))
    return begun


def test_the_api_server_takes_them(vending: Vending, cluster: DevCluster) -> None:
    """The manifests pass server-side apply with no warning, and their pods pass Pod Security's `restricted`."""
    del vending
    here = (f"--namespace={NAMESPACE}", "--dry-run=server")
    for name in "agent.yaml", "sidecar.yaml", "init.yaml":
        taken = cluster.kubectl("apply", "--server-side", "-f", str(DEPLOY / name), *here, "--field-manager=test")
        assert taken.count("serverside-applied (server dry run)") == len(documents(name))
    for name in "sidecar.yaml", "init.yaml":
        (made,) = documents(name)
        pod = {"apiVersion": "v1", "kind": "Pod", **made["spec"]["template"]}
        pod["metadata"] = {"name": "pod"}
        assert "created" in cluster.kubectl("create", *here, "-f", "-", stdin=json.dumps(pod))


class Pod:
    """What the kubelet would make of a manifest's pod: its volumes below a folder, and its agent."""

    def __init__(self, root: Path, manifest: str, vending: Vending, cluster: DevCluster) -> None:
        """Mount its volumes: an emptyDir is anyone's to write, there as here."""
        (made,) = documents(manifest)
        self.root = root
        self.spec = made["spec"]["template"]["spec"]
        config = next(each for each in documents("agent.yaml") if each["kind"] == "ConfigMap")
        text = config["data"]["agent.yaml"].replace("kubevend.kubevend.svc:7443", vending.server.address)
        for folder in "etc/kubevend", "var/run/secrets/kubevend", "run/kubevend":
            (root / folder).mkdir(parents=True)
        (root / "run/kubevend").chmod(0o777)
        (root / "etc/kubevend/agent.yaml").write_text(self.moved(text).replace("0.0.0.0:9880", "127.0.0.1:0"))
        caller = root / "var/run/secrets/kubevend"
        (caller / "token").write_text(cluster.token(NAMESPACE, self.spec["serviceAccountName"], audience="kubevend"))
        EVIDENCE.note_token((caller / "token").read_text())
        (caller / "ca.crt").write_bytes((vending.server.folder / "ca.crt").read_bytes())
        (caller / "cluster-ca.crt").write_bytes(cluster.ca_file.read_bytes())
        host, _, port = cluster.server.removeprefix("https://").partition(":")
        self.environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": "/nonexistent"}
        self.environment |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    def moved(self, text: str) -> str:
        """A text with the mount paths as they are here."""
        return MOUNTS.sub(lambda path: f"{self.root}{path[0]}", text)

    def command(self) -> list[str]:
        """The agent's command."""
        (agent,) = self.spec["initContainers"]
        return [self.moved(word) for word in agent["command"]]

    def use(self, cluster: DevCluster) -> str:
        """Who the program is to the API server, by the kubeconfig that its environment names."""
        (program,) = self.spec["containers"]
        (variable,) = program["env"]
        kubeconfig = Path(self.moved(variable["value"]))
        EVIDENCE.note_token(kubeconfig.with_name("kubeconfig.token").read_text())
        assert kubeconfig.stat().st_mode & 0o777 == 0o640
        command = [*cluster.kubectl_command, "--kubeconfig", str(kubeconfig), "auth", "whoami", "-o", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return str(json.loads(done.stdout)["status"]["userInfo"]["username"])


def test_the_sidecar(vending: Vending, cluster: DevCluster, tmp_path: Path) -> None:
    """What the sidecar runs becomes ready, and its program's kubeconfig works."""
    pod = Pod(tmp_path, "sidecar.yaml", vending, cluster)
    log = tmp_path / "agent.log"
    with log.open("w") as file:
        process = subprocess.Popen(pod.command(), env=pod.environment, stderr=file)
    try:
        agent = Running(process, log)
        until(lambda: agent.get("/readyz")[0] == 200, "the startup probe")
        assert pod.use(cluster) == f"system:serviceaccount:{NAMESPACE}:demo"
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_init_container(vending: Vending, cluster: DevCluster, tmp_path: Path) -> None:
    """What the init container runs ends well, and leaves a kubeconfig that works."""
    pod = Pod(tmp_path, "init.yaml", vending, cluster)
    subprocess.run(pod.command(), env=pod.environment, check=True, timeout=60)
    assert pod.use(cluster) == f"system:serviceaccount:{NAMESPACE}:demo"


def script_of(name: str) -> tuple[str, dict[str, str]]:
    """The script of a CI system's example, and the variables that it sets."""
    (found,) = documents(name)
    job = found["jobs"]["deploy"] if "jobs" in found else found["deploy"]
    if "jobs" in found:
        (script,) = [step["run"] for step in job["steps"] if step.get("name") == "Deploy"]
        return script, job["env"]
    (script,) = job["script"]
    return script, job["variables"]


@pytest.mark.parametrize("name", ["github-actions.yaml", "gitlab-ci.yaml"])
def test_the_jobs_of_ci(vending: Vending, cluster: DevCluster, issuer: Issuer, tmp_path: Path, name: str) -> None:
    """The script of each CI system's example deploys, by the job's own token, and ends its lease."""
    script, variables = script_of(name)
    for folder in "ci", "manifests", "bin", "tmp":
        (tmp_path / folder).mkdir()
    (tmp_path / "ci/kubevend-ca.crt").write_bytes((vending.server.folder / "ca.crt").read_bytes())
    (tmp_path / "ci/cluster-ca.crt").write_bytes(cluster.ca_file.read_bytes())
    made = name.removesuffix(".yaml")
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made}}
    (tmp_path / "manifests/it.yaml").write_text(json.dumps(manifest))
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {shlex.join(cluster.kubectl_command)} "$@"\n')
    kubectl.chmod(0o755)
    token = issuer.token()
    EVIDENCE.note_token(token)
    issuer.answers["/id?run=1&audience=kubevend"] = (200, json.dumps({"value": token}).encode(), {})
    environment = {
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(BIN), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "CURL_CA_BUNDLE": str(issuer.ca_file),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/id?run=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the job",
        "KUBEVEND_ID_TOKEN": token,
        **variables,
        "KUBEVEND_ADDRESS": vending.server.address,
        "CLUSTER_SERVER": cluster.server,
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"configmap/{made} created" in done.stdout
    assert "eyJ" not in done.stdout + done.stderr
    request = lease_service_pb2.ListLeasesRequest(filter=lease_service_pb2.LeaseFilter(role="roles/deploy"))
    listed = vending.admin.call(vending.admin.leases.ListLeases, request).leases
    assert {lease.state for lease in listed} == {lease_service_pb2.Lease.STATE_REVOKED}

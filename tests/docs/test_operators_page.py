"""docs/operators.md, typed as it stands, beside a real API server."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster
from devcluster.binaries import devcluster_binary
from devcluster.cluster import DevClusterError
from devcluster.server import KubevendServer
from tests.docs.conftest import Machine, free_address
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT
from tests.support.shell_blocks import Block, read_blocks, run_blocks
from tests.support.waiting import until

IN_CLUSTER = "In the cluster"
PAGE = (ROOT / "docs" / "operators.md").read_text()
BLOCKS = read_blocks(PAGE)
DEPLOY = ROOT / "deploy"
ADMIT = ("create", "--dry-run=server", "-f", "-")


def run_and_compare(blocks: Sequence[Block], machine: Machine, folder: Path) -> None:
    """Run blocks; each must print what the page shows, and no warning of Kubernetes'."""
    for block, printed in run_blocks(blocks, folder, machine.environment):
        assert "Warning:" not in printed
        assert_shown(block, printed)


@contextmanager
def signing(cluster: DevCluster) -> Iterator[None]:
    """Have the cluster sign the certificates that its admin approves, as clusters do: by upstream's controller."""
    folder = cluster.ca_file.parent
    command = [
        str(devcluster_binary()),
        "kube-controller-manager",
        f"--kubeconfig={cluster.kubeconfig}",
        "--controllers=certificatesigningrequest-signing-controller",
        f"--cluster-signing-cert-file={folder / 'ca.crt'}",
        f"--cluster-signing-key-file={folder / 'ca.key'}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    controller = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        controller.terminate()
        controller.wait()


def test_outside_of_the_cluster(cluster: DevCluster, machine: Machine) -> None:
    """From an empty machine to a token, without the bootstrap admin, with every credential rotated."""
    machine.environment["KUBEVEND_ADDRESS"] = free_address()
    with signing(cluster):
        run_and_compare([block for block in BLOCKS if block.section != IN_CLUSTER], machine, machine.home)


def read(cluster: DevCluster, kind: str, name: str) -> dict[str, Any]:
    """An object of namespace kubevend."""
    found: dict[str, Any] = json.loads(cluster.kubectl("get", kind, name, "--namespace=kubevend", "--output=json"))
    return found


def pod_template(cluster: DevCluster) -> dict[str, Any]:
    """The pod of the Deployment."""
    template: dict[str, Any] = read(cluster, "deployment", "kubevend")["spec"]["template"]
    return template


class Pod:
    """What the kubelet would make of the Deployment: its volumes at their paths below a folder, its environment."""

    def __init__(self, root: Path, cluster: DevCluster) -> None:
        self.root = root
        self._cluster = cluster
        self.spec = pod_template(cluster)["spec"]
        host, _, port = cluster.server.removeprefix("https://").partition(":")
        self.environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        (container,) = self.spec["containers"]
        self.mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for volume in self.spec["volumes"]:
            folder = self.root / self.mounts[volume["name"]].removeprefix("/")
            folder.mkdir(parents=True)
            for name, content in self._files(volume):
                (folder / name).write_text(content)

    def moved(self, text: str) -> str:
        """A text with the mount paths as they are here."""
        paths = "|".join(map(re.escape, sorted(self.mounts.values(), key=len, reverse=True)))
        return re.sub(rf'("|sqlite:///)({paths})', rf"\g<1>{self.root}\g<2>", text)

    def _files(self, volume: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "configMap" in volume:
            for name, content in self._read("configmap", volume["configMap"]["name"]).items():
                yield name, self.moved(content)
        elif "secret" in volume:
            for name, sealed in self._read("secret", volume["secret"]["secretName"]).items():
                yield name, base64.b64decode(sealed).decode()
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                if "configMap" in source:
                    published = self._read("configmap", source["configMap"]["name"])
                    yield from ((item["path"], published[item["key"]]) for item in source["configMap"]["items"])
                else:
                    token = self._cluster.token("kubevend", self.spec["serviceAccountName"])
                    yield source["serviceAccountToken"]["path"], token

    def _read(self, kind: str, name: str) -> dict[str, str]:
        data: dict[str, str] = read(self._cluster, kind, name)["data"]
        return data

    def install_exec(self, machine: Machine) -> None:
        """Let `kubectl exec` run its command in the pod's place."""
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        paths = "|".join(f"{path}/*" for path in self.mounts.values())
        machine.install(
            "kubectl",
            f"""
if [[ " $* " != *" exec deploy/kubevend -- "* ]]; then exec {shlex.quote(str(devcluster_binary()))} kubectl "$@"; fi
while [[ $1 != -- ]]; do shift; done
shift
command=()
for argument; do
  case $argument in {paths}) argument={shlex.quote(str(self.root))}$argument ;; esac
  command+=("$argument")
done
exec env {exports} "${{command[@]}}"
""",
        )


def settings_of(pod: Pod, address: str) -> str:
    """The settings that the server has in the pod; it listens on loopback alone."""
    text = (pod.root / "etc/kubevend/settings.toml").read_text()
    return text.replace("0.0.0.0:7443", address).replace("0.0.0.0:9443", "127.0.0.1:0")


def test_in_the_cluster(cluster: DevCluster, machine: Machine) -> None:
    """The manifests are taken as they stand, and what the pod would run issues a token that works."""
    (machine.home / "deploy").symlink_to(DEPLOY)
    blocks = [block for block in BLOCKS if block.section == IN_CLUSTER]
    (started,) = [place for place, block in enumerate(blocks) if "rollout status" in block.text]
    until(lambda: "kube-root-ca.crt" in cluster.kubectl("get", "configmaps", "--all-namespaces"), "the cluster's CA")

    run_and_compare(blocks[:started], machine, machine.home)
    assert_admitted(cluster)
    until(lambda: "kube-root-ca" in cluster.kubectl("get", "configmaps", "--namespace=kubevend"), "the namespace's CA")
    pod = Pod(machine.home / "pod", cluster)
    pod.install_exec(machine)
    etc = pod.root / "etc/kubevend"
    address = free_address()
    settings = settings_of(pod, address)
    server = KubevendServer(etc, address=address, environment=pod.environment, policies=None)
    (etc / "settings.toml").write_text(settings)
    server.start()
    try:
        machine.environment["KUBEVEND_ADDRESS"] = server.address
        run_and_compare(blocks[started:], machine, machine.home)
        healthy = probe(server.address)
    finally:
        server.stop()

    assert healthy.returncode == 0, healthy.stderr
    assert probe(server.address).returncode == 1


def assert_admitted(cluster: DevCluster) -> None:
    """Fail if the namespace does not hold pods against Pod Security's `restricted`, or the Deployment's breaks it."""
    template = pod_template(cluster)
    metadata = {**template["metadata"], "name": "kubevend", "namespace": "kubevend"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    looser = {**pod, "spec": {**template["spec"], "securityContext": {}}}

    assert "created (server dry run)" in cluster.kubectl(*ADMIT, stdin=json.dumps(pod))
    with pytest.raises(DevClusterError, match=r'violates PodSecurity "restricted'):
        cluster.kubectl(*ADMIT, stdin=json.dumps(looser))


def probe(address: str) -> subprocess.CompletedProcess[str]:
    """Run what the pod's probes run."""
    command = [sys.executable, str(DEPLOY / "health.py"), address.rpartition(":")[2]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_image_has_what_it_copies() -> None:
    """Everything that the Dockerfile copies is there, and is sent to the builder."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = {
        source for line in lines if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    }
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}

    assert copied == sent
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_every_event_of_the_log_is_explained() -> None:
    """The page's table has every event that the server can log, and no other."""
    code = "".join(file.read_text() for file in (ROOT / "server" / "kubevend_server").rglob("*.py"))
    logged = set(re.findall(r'_log\.\w+\(\s*"(\w+)"', code))
    table = PAGE.partition("## The log")[2]
    explained = {
        event for row in re.findall(r"^\| (`\w+`.*?) \|", table, re.MULTILINE) for event in re.findall(r"`(\w+)`", row)
    }

    assert explained - {"event"} == logged


def test_what_is_not_run_says_why() -> None:
    """Four blocks are left out, each with its reason."""
    left_out = [(block.section, block.reason) for block in BLOCKS if not block.runs]

    assert left_out == [
        ("", "CI has it installed already"),
        (IN_CLUSTER, "it needs a container runtime"),
        (IN_CLUSTER, "it needs a kubelet"),
        (IN_CLUSTER, "it needs a kubelet"),
    ]

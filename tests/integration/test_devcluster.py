"""The development cluster: a real API server that comes and goes without a trace."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster, DevClusterError

ROOT = Path(__file__).resolve().parents[2]
ISSUED_CREDENTIAL = "authentication.kubernetes.io/issued-credential-id"


@pytest.fixture(scope="module")
def cluster() -> Iterator[DevCluster]:
    """One cluster for all tests that leave it as they found it."""
    with DevCluster.start(max_token_expiration=timedelta(hours=1), controller_manager=True) as running:
        yield running


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster whose issuer and audit log are chosen."""
    audit_log = tmp_path_factory.mktemp("chosen") / "elsewhere.log"
    with DevCluster.start(issuer="https://issuer.example", audit_log=audit_log) as running:
        assert running.audit_log == audit_log
        yield running


def header(token: str) -> dict[str, Any]:
    """Return the header of a JWT, unverified."""
    return decode(token.split(".", maxsplit=1)[0])


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, unverified."""
    return decode(token.split(".")[1])


def decode(part: str) -> dict[str, Any]:
    """Decode one part of a JWT: JSON in base64url without padding."""
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll a condition, and fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_version(cluster: DevCluster) -> None:
    """The API server says that it is the Kubernetes release that go.mod requires."""
    assert json.loads(cluster.kubectl("get", "--raw", "/version"))["gitVersion"] == "v1.37.2"


def test_token_request_is_capped(cluster: DevCluster) -> None:
    """A token lives as long as was asked for, and no longer than the cluster's maximum."""
    cluster.kubectl("create", "serviceaccount", "capped")
    asked = {minutes: timedelta(minutes=minutes) for minutes in (30, 120)}
    tokens = {minutes: claims(cluster.token("default", "capped", duration=d)) for minutes, d in asked.items()}
    assert {minutes: token["exp"] - token["iat"] for minutes, token in tokens.items()} == {
        30: 1800,
        120: 3600,
    }


def test_token_is_of_the_audience_asked_for(cluster: DevCluster) -> None:
    """A token names the ServiceAccount, the issuer and the one audience that was asked for."""
    cluster.kubectl("create", "serviceaccount", "heard")
    token = claims(cluster.token("default", "heard", audience="https://registry.example"))
    assert (token["iss"], token["sub"], token["aud"]) == (
        "https://kubernetes.default.svc",
        "system:serviceaccount:default:heard",
        ["https://registry.example"],
    )


def test_audit_log_names_the_credential(cluster: DevCluster) -> None:
    """Once a TokenRequest has returned, its line in the audit log names the jti of the token."""
    cluster.kubectl("create", "serviceaccount", "audited")
    jti = claims(cluster.token("default", "audited"))["jti"]
    events = map(json.loads, cluster.audit_log.read_text().splitlines())
    requests = [
        event
        for event in events
        if event["requestURI"].split("?")[0] == "/api/v1/namespaces/default/serviceaccounts/audited/token"
    ]
    assert [(event["level"], event["annotations"][ISSUED_CREDENTIAL]) for event in requests] == [
        ("Metadata", f"JTI={jti}")
    ]


def test_issuer_is_the_one_asked_for(chosen: DevCluster) -> None:
    """Tokens name the issuer that was chosen, are for it by default, and are believed by the API server."""
    chosen.kubectl("create", "serviceaccount", "issued")
    token = chosen.token("default", "issued")
    whoami = json.loads(chosen.kubectl("auth", "whoami", "--output=json", token=token))
    assert (claims(token)["iss"], claims(token)["aud"]) == ("https://issuer.example", ["https://issuer.example"])
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:default:issued"


def test_audit_log_is_where_it_was_asked_for(chosen: DevCluster) -> None:
    """The audit log is the file that was chosen, for its owner only, and there is none in the cluster's folder."""
    chosen.kubectl("create", "serviceaccount", "logged")
    created = [
        event["verb"]
        for event in map(json.loads, chosen.audit_log.read_text().splitlines())
        if event.get("objectRef", {}).get("name") == "logged"
    ]
    assert created == ["create"]
    assert chosen.audit_log.stat().st_mode & 0o777 == 0o600
    assert not list(chosen.kubeconfig.parent.glob("*audit*.log"))


def test_aggregated_cluster_roles_have_rules(cluster: DevCluster) -> None:
    """With the controller manager, the ClusterRole `view` gets its rules."""
    cluster.kubectl("wait", "clusterrole/view", "--for=jsonpath={.rules[0].verbs[0]}", "--timeout=30s")


def test_deleted_namespace_goes_away(cluster: DevCluster) -> None:
    """With the controller manager, a deleted namespace does not stay Terminating."""
    cluster.kubectl("create", "namespace", "gone")
    cluster.kubectl("delete", "namespace", "gone", "--timeout=30s")
    with pytest.raises(DevClusterError, match="NotFound"):
        cluster.kubectl("get", "namespace", "gone")


def test_apiserver_outage(cluster: DevCluster) -> None:
    """The API server can be stopped and started alone: same address, same objects, same keys."""
    cluster.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: survivor, namespace: default}}")
    token = cluster.token("default", "survivor")
    before = (cluster.server, cluster.pids["etcd"])
    cluster.stop_apiserver()
    with pytest.raises(DevClusterError, match="refused"):
        cluster.kubectl("get", "namespaces")
    cluster.start_apiserver()
    assert (cluster.server, cluster.pids["etcd"]) == before
    whoami = json.loads(cluster.kubectl("auth", "whoami", "--output=json", token=token))
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:default:survivor"


def test_killed_apiserver_can_be_started_again(cluster: DevCluster) -> None:
    """An API server that was killed leaves etcd running, and comes back as a new process."""
    killed = cluster.pids["kube-apiserver"]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not is_alive(killed))
    cluster.start_apiserver()
    assert cluster.pids["kube-apiserver"] != killed
    assert "default" in cluster.kubectl("get", "namespaces", "--output=name")


def test_kept_directory_brings_the_cluster_back(tmp_path: Path) -> None:
    """A second run in a kept directory has the first one's objects, and still believes its ES256 tokens."""
    with DevCluster.start(tmp_path / "kept", signing_key="ec", keep=True) as first:
        first.kubectl("create", "serviceaccount", "kept")
        token = first.token("default", "kept")
    assert header(token)["alg"] == "ES256"
    with DevCluster.start(tmp_path / "kept", signing_key="ec") as second:
        whoami = json.loads(second.kubectl("auth", "whoami", "--output=json", token=token))
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:default:kept"
    assert (tmp_path / "kept").is_dir()


def test_nothing_is_left_after_stop() -> None:
    """A stopped cluster leaves no process and no folder."""
    with DevCluster.start() as cluster:
        pids = cluster.pids
        assert all(map(is_alive, pids.values()))
        assert cluster.kubeconfig.parent.stat().st_mode & 0o777 == 0o700
    assert not any(map(is_alive, pids.values()))
    assert not cluster.kubeconfig.parent.exists()


def test_cluster_dies_with_its_owner(tmp_path: Path) -> None:
    """A cluster whose Python process is killed stops, and takes its folder along."""
    program = (
        "import json, pathlib, sys; from devcluster import DevCluster;"
        "cluster = DevCluster.start(pathlib.Path(sys.argv[1]));"
        "print(json.dumps(cluster.pids), flush=True); sys.stdin.read()"
    )
    directory = tmp_path / "orphan"
    command = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = json.loads(owner.stdout.readline())
        owner.kill()
    wait_until(lambda: not any(map(is_alive, pids.values())) and not directory.exists())


def test_failed_start_tells_why(tmp_path: Path) -> None:
    """A cluster that cannot start raises with the component's own last words, and leaves nothing behind."""
    with pytest.raises(DevClusterError, match=r"(?s)kube-apiserver ended.*service-account-max-token-expiration"):
        DevCluster.start(tmp_path / "failed", max_token_expiration=timedelta(minutes=1))
    assert not (tmp_path / "failed").exists()


def test_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    """A cluster does not put its keys where other users can read them, and leaves that folder alone."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(DevClusterError, match="chmod 700"):
        DevCluster.start(tmp_path / "open")
    assert list((tmp_path / "open").iterdir()) == []

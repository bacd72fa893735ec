"""`kubevend agent`, on a real server and a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.docs.conftest import free_address
from tests.integration.conftest import Start, Vending
from tests.support.clusters import allow_anchors, make_namespace, works
from tests.support.evidence import EVIDENCE
from tests.support.waiting import until

OFTEN = {"issuance": {"renew_after": 0.004}}
"""The next token after 2.4 s of the 600 that each lives."""

NOBODY = {"address": free_address()}
"""A connection to where nobody listens."""

COMMAND = Path(sys.executable).with_name("kubevend")


@pytest.fixture(scope="module")
def namespace(cluster: DevCluster) -> str:
    """A namespace of this module's own, with ServiceAccount demo."""
    make_namespace(cluster, "agents")
    allow_anchors(cluster, "agents")
    return "agents"


@pytest.fixture(scope="module")
def vending(start_for_all: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server that renews every few seconds, with roles/ci, whose ServiceAccount may list ConfigMaps.

    All tests share it; one that stops it starts it again.
    """
    begun = start_for_all({**OFTEN, "listener": {"address": free_address()}})  # where it is after a restart, too
    begun.add_config(cluster)
    begun.admin.create_role(allowed_namespaces=[namespace], ttl=timedelta(minutes=10))
    here = f"--namespace={namespace}"
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", here)
    cluster.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:demo", here)
    return begun


@dataclass
class Pod:
    """A folder with a config, and the environment of the agent that runs there."""

    folder: Path
    environment: Mapping[str, str]
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "agent.log"
        (self.folder / "credentials").mkdir(parents=True)

    def file(self, name: str) -> Path:
        """An output's file. The search for tokens knows that there are some in its folder."""
        return self.folder / "credentials" / name

    def command(self, *arguments: str, **config: Any) -> list[str]:
        """The agent's command line, for a config."""
        path = self.folder / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        return [str(COMMAND), "agent", "--config", str(path), *arguments]

    def once(self, *arguments: str, code: int = 0, **config: Any) -> str:
        """Run it to its end, which is to be with this code; what it says."""
        command = self.command(*arguments, **config)
        done = subprocess.run(
            command, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=60
        )
        with self.log.open("a") as log:
            log.write(done.stderr)
        assert done.returncode == code, done.stderr
        return done.stderr

    @contextmanager
    def running(self, *arguments: str, code: int = 0, before: tuple[str, ...] = (), **config: Any) -> Iterator[Running]:
        """Run it until the block ends, or it does; its end is to be with this code."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*before, *self.command(*arguments, **config)],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Running(process, self.log)
            process.terminate()
            assert process.wait(30) == code, self.log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass
class Running:
    """An agent that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What it has logged, of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if name in ("", line["event"])]

    def wait(self, name: str, count: int = 1, seconds: float = 30) -> dict[str, Any]:
        """Wait until it has logged so many events of a kind; the last one."""
        until(lambda: len(self.events(name)) >= count or self._ended(), f"{count} of {name}", seconds)
        found = self.events(name)
        assert len(found) >= count, self.log.read_text()
        return found[-1]

    def get(self, path: str) -> tuple[int, str]:
        """What its health endpoint answers."""
        url = f"http://{self.wait('listening')['address']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """A sample of its metrics."""
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        begin = f"kubevend_agent_{name}{{{shown}}} " if shown else f"kubevend_agent_{name} "
        (line,) = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(begin)]
        return float(line.removeprefix(begin))

    def _ended(self) -> bool:
        return self.process.poll() is not None


@pytest.fixture
def pod(vending: Vending, tmp_path: Path) -> Iterator[Pod]:
    """A folder in which an agent may run, as the bootstrap admin; no token is to be in its log in the end."""
    folder = vending.server.folder
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "KUBEVEND_ADDRESS": vending.server.address,
        "KUBEVEND_CA_FILE": str(folder / "ca.crt"),
        "KUBEVEND_TOKEN_FILE": str(folder / "admin.token"),
    }
    made = Pod(tmp_path / "pod", environment)
    yield made
    EVIDENCE.folders[made.folder] = None
    assert list(EVIDENCE.leaks_in(made.folder)) == []


def token_in(file: Path) -> str:
    """The token in a file, of which note is taken."""
    token = file.read_text()
    EVIDENCE.note_token(token)
    return token


def test_a_token_is_kept_up_to_date(pod: Pod, cluster: DevCluster) -> None:
    """A file has a token that works, then the next one; its mode is as asked for; the agent stops and leaves it."""
    file = pod.file("token")
    with pod.running(outputs=[{"role": "ci", "token": {"file": str(file)}, "mode": "0640"}]) as agent:
        agent.wait("written")
        first = token_in(file)
        assert works(cluster, first)
        agent.wait("written", 3)
        assert file.stat().st_mode & 0o777 == 0o640
        assert token_in(file) != first
    assert works(cluster, token_in(file))
    assert [*file.parent.iterdir()] == [file]


def test_kubectl_works_through_rotations_and_an_outage(
    pod: Pod, vending: Vending, cluster: DevCluster, namespace: str
) -> None:
    """With the kubeconfig of the agent kubectl works over rotations, while kubevend is dead, and after it is back; the
    kubeconfig is never written again, and readiness holds, with a word about the outage.
    """
    file = pod.file("kubeconfig")
    outputs = [{"name": "kc", "role": "ci", "kubeconfig": {"file": str(file)}}]
    said: list[str] = []
    with pod.running(outputs=outputs, health={"address": "127.0.0.1:0"}) as agent:
        agent.wait("written")
        inode = file.stat().st_ino
        with ongoing(lambda: said.append(kubectl(cluster, file))):
            agent.wait("written", 4)
            vending.server.kill()
            agent.wait("no_token")
            count = len(said)
            until(lambda: len(said) > count + 1, "kubectl in the outage")
            status, words = agent.get("/readyz")
            rotations = len(agent.events("written"))
            failures = agent.metric("failures_total", output="kc")
            vending.restart()
            agent.wait("written", rotations + 1)

        assert set(said) == {f"No resources found in {namespace} namespace.\n"}
        assert (status, words.startswith("ok kc: good for ")) == (200, True)
        assert "no next one yet: UNAVAILABLE" in words
        assert failures >= 1
        assert file.stat().st_ino == inode
        assert yaml.safe_load(file.read_text())["users"][0]["user"] == {"tokenFile": "kubeconfig.token"}


@contextmanager
def ongoing(act: Callable[[], object]) -> Iterator[None]:
    """Have something done over and over while the block runs."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            act()

    worker = threading.Thread(target=go_on)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def kubectl(cluster: DevCluster, kubeconfig: Path) -> str:
    """List the ConfigMaps that a label has, of which there are none, by a kubeconfig alone; what it says of that."""
    EVIDENCE.note_token(kubeconfig.with_name("kubeconfig.token").read_text())
    command = [*cluster.kubectl_command, "--kubeconfig", str(kubeconfig), "get", "configmaps", "-l", "none=here"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(kubeconfig.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stderr


def test_changes_are_told(pod: Pod) -> None:
    """A command is run and a signal sent after each change; they share one token, and those that fail or take too long
    are counted and keep nobody else waiting.
    """
    heard, ran = pod.folder / "heard", pod.folder / "ran"
    pid_file = pod.folder / "app.pid"
    listener = f'trap "echo HUP >>{heard}" HUP; echo $$ >{pid_file}; while :; do sleep 0.05; done'
    keep = {"role": "ci", "token": {"file": str(pod.file("token"))}}

    def output(name: str, **on_change: Any) -> dict[str, Any]:
        return {**keep, "name": name, "token": {"file": str(pod.file(name))}, "on_change": on_change}

    outputs = [
        output(
            "run", command=["sh", "-c", f'echo "$KUBEVEND_AGENT_OUTPUT $(basename "$KUBEVEND_AGENT_FILE")" >>{ran}']
        ),
        output("told", signal="HUP", pid_file=str(pid_file)),
        output("fails", command=["false"]),
        output("hangs", command=["sh", "-c", "sleep 600 & sleep 600"], timeout="1s"),
        output("missing", command=["no-such-program"]),
    ]
    with subprocess.Popen(["bash", "-c", listener]) as app:
        until(lambda: pid_file.exists() and pid_file.read_text(), "the listener")
        with pod.running(outputs=outputs, health={"address": "127.0.0.1:0"}) as agent:
            agent.wait("command_timed_out")
            agent.wait("written", 15)
            until(lambda: heard.exists() and heard.read_text().count("HUP") >= 2, "the signals")
            assert ran.read_text().splitlines()[:2] == ["run run"] * 2
            assert agent.metric("changes_told_total", output="run", result="succeeded") >= 2
            assert agent.metric("changes_told_total", output="fails", result="failed") >= 2
            assert agent.metric("changes_told_total", output="missing", result="failed") >= 2
            assert agent.metric("changes_told_total", output="hangs", result="timed_out") >= 1
            leases = [event["lease"] for event in agent.events("written")[:5]]
            assert len(set(leases)) == 1
        app.kill()


def test_health_and_metrics(pod: Pod, vending: Vending, namespace: str) -> None:
    """An agent is ready once every output holds a good token, says which does not and why, and counts."""
    good = {"name": "good", "role": "ci", "token": {"file": str(pod.file("good"))}}
    bad = {"name": 'the "bad" one', "role": "later", "token": {"file": str(pod.file("bad"))}}
    with pod.running(outputs=[good, bad], health={"address": "127.0.0.1:0"}) as agent:
        agent.wait("written")
        agent.wait("no_token")
        assert agent.get("/livez") == (200, "ok\n")
        assert agent.get("/secrets")[0] == 404
        status, words = agent.get("/readyz")
        assert (status, agent.metric("ready")) == (503, 0)
        assert words.splitlines()[0].startswith("ok good: good for ")
        assert words.splitlines()[1].startswith('NOT READY the "bad" one: ROLE_NOT_FOUND: ')

        vending.admin.create_role("later", allowed_namespaces=[namespace])
        until(lambda: agent.get("/readyz")[0] == 200, "the other role's token")
        assert agent.metric("ready") == 1
        assert 0 < agent.metric("expires_in_seconds", output="good") <= 600
        assert agent.metric("renewals_total", output="good") >= 1
        assert agent.metric("last_change_timestamp_seconds", output="good") > 1.6e9
        EVIDENCE.told.append(("the agent's metrics", agent.get("/metrics")[1].encode()))


def test_a_revoked_lease_has_its_token_replaced(
    pod: Pod, vending: Vending, cluster: DevCluster, namespace: str
) -> None:
    """When its lease is revoked, a token is replaced at once by another lease's."""
    vending.admin.create_role(
        "revocable",
        allowed_namespaces=[namespace],
        revocation=role_service_pb2.REVOCATION_PER_LEASE,
        ttl=timedelta(hours=10),
    )
    file = pod.file("token")
    with pod.running(outputs=[{"role": "revocable", "token": {"file": str(file)}}]) as agent:
        lease = agent.wait("written")["lease"]
        first = token_in(file)
        vending.admin.call(vending.admin.leases.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=lease))
        assert agent.wait("written", 2)["lease"] != lease
        assert agent.wait("revoked")["lease"] == lease
        assert token_in(file) != first
        assert works(cluster, token_in(file))


def test_once(pod: Pod, vending: Vending, cluster: DevCluster, namespace: str) -> None:
    """`--once` writes every file and tells of it; where one token cannot be had it writes none, says why by exit code
    and reason, and ends the leases that it got.
    """
    for role in "once", "short":
        vending.admin.create_role(role, allowed_namespaces=[namespace], max_ttl=timedelta(minutes=15))
    ran = pod.folder / "ran"
    token, env, kubeconfig = pod.file("token"), pod.file("app.env"), pod.file("kubeconfig")
    text = "TOKEN=${token}\nPRICE=$$5\nWHO=${namespace}/${service_account}\nSERVER=${cluster_server}\n"
    good: list[dict[str, Any]] = [
        {"role": "once", "token": {"file": str(token)}, "on_change": {"command": ["touch", str(ran)]}},
        {"role": "once", "template": {"text": text, "file": str(env)}, "cluster": {"server": cluster.server}},
        {"role": "once", "kubeconfig": {"file": str(kubeconfig), "embed": "true"}},
    ]
    bad = {"role": "short", "ttl": "20m", "min_ttl": "20m", "token": {"file": str(pod.file("bad"))}}

    said = pod.once("--once", outputs=[*good, bad], code=1)
    assert "reason: MIN_TTL_NOT_MET (FAILED_PRECONDITION)" in said
    assert [*token.parent.iterdir()] == []
    assert states(vending, "once") == ["STATE_REVOKED"]

    pod.once("--once", outputs=good)
    assert works(cluster, token_in(token))
    lines = env.read_text().splitlines()
    assert lines == [f"TOKEN={token_in(token)}", "PRICE=$5", f"WHO={namespace}/demo", f"SERVER={cluster.server}"]
    assert yaml.safe_load(kubeconfig.read_text())["users"][0]["user"] == {"token": token_in(token)}
    assert ran.exists()
    assert states(vending, "once") == ["STATE_REVOKED", "STATE_ACTIVE"]

    assert "command" in pod.once("--once", "--", "true", outputs=good, code=2)
    assert "change_not_told" in pod.once("--once", outputs=[{**good[0], "on_change": {"command": ["false"]}}], code=1)
    before = token.read_text()
    assert "UNAVAILABLE" in pod.once("--once", "--timeout", "2s", connection=NOBODY, outputs=good, code=5)
    assert token.read_text() == before


def states(vending: Vending, role: str) -> list[str]:
    """How a role's leases are, the oldest first."""
    narrowed = lease_service_pb2.LeaseFilter(role=f"roles/{role}")
    request = lease_service_pb2.ListLeasesRequest(filter=narrowed)
    listed = vending.admin.call(vending.admin.leases.ListLeases, request)
    return [lease_service_pb2.Lease.State.Name(lease.state) for lease in reversed(listed.leases)]


CHILD = """
trap 'echo TERM; exit 7' TERM
trap 'echo USR1' USR1
( (sleep 0.2) & )      # an orphan at once
test -s {file} && echo started
while :; do sleep 0.05; done
"""

AS_SUBREAPER = (
    sys.executable,
    "-c",
    "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
)
AS_PID_1 = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.parametrize("before", [AS_SUBREAPER, AS_PID_1], ids=["as a subreaper", "as PID 1"])
def test_a_child(pod: Pod, vending: Vending, namespace: str, before: tuple[str, ...]) -> None:
    """A child starts once its files are there, gets the agent's signals and those of changes; orphans are reaped; the
    agent ends with it, with its exit code, and ends its leases where that is wanted.
    """
    if before == AS_PID_1 and subprocess.run([*AS_PID_1, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    file, role = pod.file("token"), f"child-{len(before)}"
    vending.admin.create_role(role, allowed_namespaces=[namespace], ttl=timedelta(minutes=10))
    output = {"role": role, "token": {"file": str(file)}, "on_change": {"signal": "USR1", "process": "child"}}
    command = ("--", "bash", "-c", CHILD.format(file=file))
    with pod.running(*command, code=7, before=before, outputs=[output], revoke_on_exit="true") as agent:
        agent.wait("child_started")
        until(lambda: "started\n" in agent.log.read_text(), "the child")
        until(lambda: "USR1\n" in agent.log.read_text(), "the signal of a change")
        itself = psutil.Process(agent.process.pid)
        if before == AS_PID_1:
            (itself,) = itself.children()
        until(lambda: [each.name() for each in itself.children()] == ["bash"], "the orphans to be reaped")
        itself.terminate()
        assert agent.process.wait(30) == 7
    assert "TERM\n" in agent.log.read_text()
    assert set(states(vending, role)) == {"STATE_REVOKED"}


def test_a_child_that_cannot_have_its_files_is_not_started(pod: Pod) -> None:
    """A refusal ends the agent at once, an outage after the time that was given, each with its own exit code."""
    output = {"role": "nobody", "token": {"file": str(pod.file("token"))}}
    assert "reason: ROLE_NOT_FOUND" in pod.once("--", "touch", str(pod.folder / "ran"), outputs=[output], code=4)
    assert "CHILD_NOT_STARTED" in pod.once("--", "no-such-program", outputs=[{**output, "role": "ci"}], code=1)
    in_vain: dict[str, Any] = {"connection": NOBODY, "outputs": [{**output, "role": "ci"}]}
    pod.once("--timeout", "2s", "--", "touch", str(pod.folder / "ran"), code=5, **in_vain)
    linked = pod.file("linked")
    linked.symlink_to("elsewhere")
    refused = {"role": "ci", "token": {"file": str(linked)}}
    said = pod.once("--", "touch", str(pod.folder / "ran"), outputs=[refused], code=1)
    assert f"Error: {linked} is a symbolic link" in said
    assert not (pod.folder / "ran").exists()


def test_an_agent_that_was_killed_leaves_no_harm(pod: Pod, cluster: DevCluster) -> None:
    """After SIGKILL the file is whole; the next agent removes what was left half written, and nothing else."""
    file = pod.file("token")
    outputs = [{"role": "ci", "token": {"file": str(file)}}]
    with pod.running(outputs=outputs, code=-signal.SIGKILL) as agent:
        agent.wait("written")
        agent.process.kill()
    left = file.with_name(".token.0123abcd.kubevend-new")
    other = file.with_name(".token.mine")
    for each in left, other:
        each.write_text("half")
    assert works(cluster, token_in(file))
    with pod.running(outputs=outputs) as agent:
        assert agent.wait("leftovers_removed")["count"] == 1
        agent.wait("written", 2)
    assert sorted(file.parent.iterdir()) == [other, file]


def test_what_is_wrong_with_a_config_is_said(pod: Pod) -> None:
    """A config with faults starts nothing; all are told, by their paths, with the nearest name that is known."""
    good = {"role": "ci", "token": {"file": str(pod.file("token"))}}
    said = pod.once(outputs=[{**good, "rol": "x", "mode": "600x"}, {"role": "ci"}], helth={}, code=2)
    assert "agent.yaml: outputs[0].rol: is not known: did you mean role?" in said
    assert "outputs[0].mode: is '600x', and must be an octal mode" in said
    assert "outputs[1]: must have one of token, kubeconfig, template" in said
    assert "helth: is not known: did you mean health?" in said
    pod.once("--check", outputs=[{**good, "mode": "0640"}])
    assert [*pod.file("token").parent.iterdir()] == []

"""`kubevend agent`, on a real server and a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import DevCluster
from kubevend.v1 import lease_service_pb2, role_service_pb2
from tests.docs.conftest import free_address
from tests.integration.conftest import Start, Vending
from tests.support.clusters import allow_anchors, works
from tests.support.evidence import EVIDENCE
from tests.support.waiting import until

OFTEN = {"issuance": {"renew_after": 0.004}}
"""The next token after 2.4 s of the 600 that each lives."""

COMMAND = Path(sys.executable).with_name("kubevend")


@pytest.fixture
def vending(start: Start, cluster: DevCluster, namespace: str) -> Vending:
    """A server that renews every few seconds, with roles/ci, whose ServiceAccount may list ConfigMaps."""
    begun = start({**OFTEN, "listener": {"address": free_address()}})  # where it is after a restart, too
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
    """A file has a token that works, then the next one; its mode is as asked for; the agent stops at once and leaves it."""
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

"""Empty machines for the pages: a cluster of their own, and the commands that a reader would have."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devcluster import DevCluster
from devcluster.binaries import devcluster_binary, grpcurl
from tests.support.evidence import EVIDENCE


@dataclass
class Machine:
    """Somebody's machine: a home, and commands in a folder on PATH. `environment` is that of its shells."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def install(self, name: str, script: str) -> None:
        """Put a command where the shells find it first."""
        file = self.home / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{script}\n")
        file.chmod(0o755)


@pytest.fixture
def cluster() -> Iterator[DevCluster]:
    """A real API server in which nobody has made anything yet."""
    with DevCluster.start(controller_manager=True) as started:
        yield started


@pytest.fixture
def machine(cluster: DevCluster, tmp_path: Path) -> Iterator[Machine]:
    """A machine with kubectl as the cluster's admin, grpcurl and kubevend-server."""
    found = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    found.install("kubectl", f'exec {shlex.quote(str(devcluster_binary()))} kubectl "$@"')
    found.install("grpcurl", f'exec {shlex.quote(str(grpcurl()))} "$@"')
    found.install("kubevend-server", f'exec {shlex.quote(sys.executable)} -m kubevend_server.cli "$@"')
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {"HOME": str(tmp_path), "PATH": path, "KUBECONFIG": str(cluster.kubeconfig)}
    found.environment = {**clean, **own}
    yield found
    EVIDENCE.homes[tmp_path] = None
    for file in tmp_path.rglob("*.token"):
        EVIDENCE.note_token(file.read_text().strip())


def free_address() -> str:
    """An address on loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"

"""The cluster of the first run: one of its own, or the one that KUBECONFIG names."""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devcluster.again import run_again
from devcluster.cluster import DevCluster, DevClusterError
from devcluster.state import State, folder_of_cluster

# Below the ports that systems hand out by themselves, so that the port is still free at the next run.
_PORTS = range(20000, 30000)


class TargetError(Exception):
    """The cluster cannot be used; the message says what to do."""


class Target(Protocol):
    """A cluster, as its admin."""

    @property
    def server(self) -> str:
        """The API server's URL."""

    @property
    def ca(self) -> str:
        """The certificates that vouch for it, PEM; empty for those that the system trusts."""

    @property
    def kubeconfig(self) -> str:
        """The value of KUBECONFIG by which its admin reaches it."""

    @property
    def audit_log(self) -> Path | None:
        """The API server's audit log, where this machine has it."""

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as the admin, and return what it prints.

        Raises:
            DevClusterError: It failed; with what it wrote to stderr.
        """

    def ended(self) -> str | None:
        """Tell what of it ended by itself; None while all runs."""

    def stop(self) -> None:
        """Stop what was started for it."""


class OwnCluster:
    """The development cluster, kept in the state folder from run to run."""

    def __init__(self, state: State) -> None:
        """Start it on the port of the first run.

        The port stays, since kubevend refuses another host for a config that has live leases.

        Raises:
            TargetError: The port is taken.
            DevClusterError: It did not start.
        """
        port = _remembered_port(state)
        try:
            self._cluster = DevCluster.start(
                state.cluster, port=port, audit_log=state.kube_audit_log, controller_manager=True, keep=True
            )
        except DevClusterError as error:
            if f"port {port}" not in str(error) and f"127.0.0.1:{port}:" not in str(error):
                raise
            raise TargetError(
                f"{error}\nThis folder's cluster has had port {port} since its first run. Free the port, or remove "
                f"{state.shown(state.folder)} to start over with another."
            ) from error
        state.copy(self._cluster.kubeconfig, state.kubeconfig_file)
        self.pids = self._cluster.pids
        self.server = self._cluster.server
        self.ca = self._cluster.ca_file.read_text()
        self.kubeconfig = str(state.kubeconfig_file)
        self.audit_log: Path | None = self._cluster.audit_log

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """See `Target`."""
        return self._cluster.kubectl(*arguments, stdin=stdin)

    def ended(self) -> str | None:
        """See `Target`."""
        return self._cluster.ended()

    def stop(self) -> None:
        """See `Target`."""
        self._cluster.stop()


@dataclass(frozen=True)
class GivenCluster:
    """The cluster of the current context of KUBECONFIG. See `Target`.

    Attributes:
        context: The context's name.
        binary: The binary whose `kubectl` is used.
    """

    server: str
    ca: str
    kubeconfig: str
    context: str
    binary: Path
    audit_log: Path | None = None

    @classmethod
    def find(cls, kubeconfig: str, binary: Path) -> GivenCluster:
        """Read where KUBECONFIG leads. Nothing is sent yet.

        Raises:
            TargetError: It names no cluster that kubevend can use.
            DevClusterError: kubectl cannot read it.
        """
        arguments = ("config", "view", "--raw", "--minify", "--flatten", "--output=json")
        view: dict[str, Any] = json.loads(_kubectl(binary, kubeconfig, *arguments))
        cluster = view["clusters"][0]["cluster"]
        if cluster.get("insecure-skip-tls-verify"):
            raise TargetError(
                "This kubeconfig skips the verification of the API server's certificate, and kubevend never does: "
                "put the cluster's CA into certificate-authority-data."
            )
        ca = base64.b64decode(cluster.get("certificate-authority-data", "")).decode()
        return cls(cluster["server"].rstrip("/"), ca, kubeconfig, view["current-context"], binary)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """See `Target`. The context is named, lest somebody changes the current one meanwhile."""
        return _kubectl(self.binary, self.kubeconfig, f"--context={self.context}", *arguments, stdin=stdin)

    def ended(self) -> str | None:
        """It is not ours to watch."""
        return None

    def stop(self) -> None:
        """It is not ours to stop."""


def given_kubeconfig(state: State) -> str:
    """Return what KUBECONFIG names, with absolute paths; empty where that is nothing but our own cluster.

    A shell that has read `.dev/env` has KUBECONFIG set, and means the development cluster by it.

    Raises:
        TargetError: It names the development cluster of another state folder, or nothing.
    """
    paths = [Path(path).absolute() for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    if paths == [state.kubeconfig_file] and state.kubeconfig_file.is_symlink():
        paths = [state.kubeconfig_file.readlink()]
    # The own file may be gone, if somebody removed the folder to start over.
    if [path.resolve() for path in paths] == [state.folder.resolve() / state.kubeconfig_file.name]:
        return ""
    if len(paths) == 1:
        _refuse_cluster_of_another_folder(paths[0], state)
    if paths and not any(path.exists() for path in paths):
        raise TargetError(
            f"KUBECONFIG names {', '.join(map(state.shown, paths))}, which is not there. Correct it to use a cluster "
            "that you have; for a development cluster, unset KUBECONFIG and run again."
        )
    return os.pathsep.join(map(str, paths))


def _refuse_cluster_of_another_folder(kubeconfig: Path, state: State) -> None:
    """Two kubevends in one cluster would be at odds over their objects, and nobody meant it.

    Raises:
        TargetError: It is one.
    """
    folder = folder_of_cluster(kubeconfig)
    if folder is None:
        return
    theirs, ours = state.shown(folder), state.shown(state.folder)
    raise TargetError(
        f"KUBECONFIG names {state.shown(kubeconfig)}, the development cluster of the state folder {theirs}, as "
        f"`. {theirs}/env` sets it; but this run is for the state folder {ours}. To run that one: "
        f"{run_again(KUBECONFIG='', KUBEVEND_DEV_DIR=theirs)}\n"
        f"To run this one, with a development cluster of its own: unset KUBECONFIG, and run again."
    )


def _remembered_port(state: State) -> int:
    if state.cluster_port.exists():
        return int(state.cluster_port.read_text())
    port = _free_port()
    state.write(state.cluster_port, f"{port}\n")
    return port


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise TargetError(f"No port from {_PORTS.start} to {_PORTS.stop} is free on 127.0.0.1.")


def _kubectl(binary: Path, kubeconfig: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [binary, "kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBECONFIG": kubeconfig},
    )
    if done.returncode != 0:
        raise DevClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout

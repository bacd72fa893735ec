"""The folder `.dev`: what the first run leaves for whoever goes on from there, and for the next run."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from devcluster.again import another_folder, another_port, run_again

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
"""Where `make` puts the commands."""


class StateError(Exception):
    """The folder cannot be used; the message says what to do."""


class State:
    """The state folder, private to its owner, and the paths in it.

    Attributes:
        folder: The folder, absolute.
        cluster: The development cluster's own folder.
        cluster_port: The port on which the development cluster has been since its first run.
        cluster_ca: The CA of the cluster's API server, for kubevend.
        kube_audit_log: The API server's audit log.
        kubeconfig_file: The cluster's admin.
        credentials: The folder of the token files that kubevend may read.
        credential: kubevend's own token.
        policies: The access policies.
        env: A shell file with where everything is.
        protoset: The API's descriptors.
        manifests: What was made in the cluster.
    """

    def __init__(self, folder: Path) -> None:
        """Name the paths, and make the folders.

        Args:
            folder: The state folder; made if it is not there.
        """
        self.folder = folder.absolute()
        self.cluster = self.folder / "cluster"
        self.cluster_port = self.folder / "cluster-port"
        self.cluster_ca = self.folder / "cluster-ca.crt"
        self.kube_audit_log = self.folder / "kube-audit.log"
        self.kubeconfig_file = self.folder / "kubeconfig"
        self.credentials = self.folder / "credentials"
        self.credential = self.credentials / "kubevend.token"
        self.policies = self.folder / "policies"
        self.env = self.folder / "env"
        self.protoset = self.folder / "kubevend.protoset"
        self.manifests = self.folder / "quickstart.yaml"
        for path in (self.folder, self.credentials, self.policies):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        self._lock = (self.folder / "lock").open("a+")

    def take(self) -> None:
        """Hold the folder until this process ends, however it ends.

        Raises:
            StateError: Another run holds it.
        """
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            raise StateError(
                f"Another `make run` (process {self._lock.read().strip()}) uses {self.shown(self.folder)} already. Use "
                "that one, or stop it with Ctrl-C where it runs. A second one beside it needs a folder and a port of "
                "its own: " + run_again(KUBECONFIG="", KUBEVEND_DEV_DIR=another_folder(), KUBEVEND_PORT=another_port())
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def shown(self, path: Path) -> str:
        """A path as a person would write it: relative, where it is below the current folder."""
        here = Path.cwd()
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    def write(self, path: Path, text: str) -> None:
        """Write a file for its owner only, all of it or nothing: readers never see a half."""
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(text)
        partial.replace(path)

    def copy(self, source: Path, target: Path) -> None:
        """Copy a text file, for its owner only."""
        self.write(target, source.read_text())

    def link(self, target: str, path: Path) -> None:
        """Make a file stand for another one, if the other is one file; else for nothing."""
        path.unlink(missing_ok=True)
        if os.pathsep not in target:
            path.symlink_to(target)

    def write_env(self, variables: Mapping[str, str]) -> None:
        """Write the shell file that exports the variables and puts the commands first on PATH."""
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        folder = shlex.quote(str(BIN))
        self.write(
            self.env,
            "\n".join(
                [
                    "# Made by `make run`. Use it in a shell: . " + self.shown(self.env),
                    *exports,
                    f'case "$PATH" in {folder}:*) ;; *) export PATH={folder}:"$PATH" ;; esac',
                    "",
                ]
            ),
        )


def folder_of_cluster(kubeconfig: Path) -> Path | None:
    """The state folder whose development cluster a kubeconfig is of; None where it is of another cluster."""
    file = kubeconfig.resolve()
    folder = file.parent
    return folder if file.name == "kubeconfig" and (folder / "cluster-port").exists() and file.exists() else None


def install_commands(grpcurl: Path, devcluster: Path) -> None:
    """Put grpcurl and kubectl beside the other commands of this checkout.

    Args:
        grpcurl: The compiled grpcurl.
        devcluster: The compiled binary that has kubectl in it.
    """
    BIN.mkdir(parents=True, exist_ok=True)
    link = BIN / ".grpcurl.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(grpcurl)
    link.replace(BIN / "grpcurl")
    wrapper = BIN / ".kubectl.partial"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(devcluster))} kubectl "$@"\n')
    wrapper.chmod(0o755)
    wrapper.replace(BIN / "kubectl")


def copy_protoset(state: State) -> None:
    """Put the API's descriptor set where the state folder's users look for it."""
    shutil.copyfile(ROOT / "clients/python/kubevend/v1/kubevend.protoset", state.protoset)

"""A development cluster as a Python object, for tests and for the first run."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from devcluster.binaries import devcluster_binary

STOP_SECONDS = 20
"""More than the components' own time to stop, after which `up` kills them."""


class DevClusterError(Exception):
    """The cluster did not start, or a command to it failed; the message has what it printed."""


class DevCluster:
    """A running etcd and kube-apiserver, which end with this process at the latest.

    Attributes:
        server: The API server's URL, as in "https://127.0.0.1:36443".
        kubeconfig: A kubeconfig of its admin (group system:masters), certificates included.
        ca_file: The CA of the API server's certificate, PEM.
        audit_log: The API server's audit log: one JSON event a line, level Metadata, written at once.
        pids: The process ID of each component that runs, by name ("etcd", "kube-apiserver", …).
        seconds: How long the last start took.
    """

    server: str
    kubeconfig: Path
    ca_file: Path
    audit_log: Path
    pids: dict[str, int]
    seconds: float

    @classmethod
    def start(
        cls,
        directory: Path | None = None,
        *,
        port: int = 0,
        max_token_expiration: timedelta | None = None,
        signing_key: Literal["rsa", "ec"] = "rsa",
        issuer: str = "https://kubernetes.default.svc",
        audit_log: Path | None = None,
        controller_manager: bool = False,
        keep: bool = False,
    ) -> Self:
        """Start a cluster, and return once its API server is ready (about 3 s once compiled).

        Args:
            directory: Where it keeps its files; a new temporary folder by default. One that an earlier
                run kept brings back that run's keys and objects.
            port: Of the API server, on 127.0.0.1; 0 takes a free one.
            max_token_expiration: The longest life of a ServiceAccount token, 1 hour or more; by default the
                API server sets no limit.
            signing_key: Of ServiceAccount tokens: RSA with 2048 bits, or EC on P-256.
            issuer: Of ServiceAccount tokens.
            audit_log: By default kube-audit.log in the directory.
            controller_manager: Run the controllers too that fill aggregated ClusterRoles, empty deleted
                namespaces, collect garbage, and make default ServiceAccounts and token Secrets.
            keep: Leave the directory behind. A directory that was there before is never removed.

        Raises:
            DevClusterError: A component ended before it was ready; with the end of its log.
            GoError: The binary could not be compiled.
        """
        options = [f"--port={port}", f"--signing-key={signing_key}", f"--issuer={issuer}"]
        if max_token_expiration is not None:
            options.append(f"--max-token-expiration={_go_duration(max_token_expiration)}")
        if audit_log is not None:
            options.append(f"--audit-log={audit_log}")
        if controller_manager:
            options.append("--controller-manager")
        if keep:
            options.append("--keep")
        return cls(directory, options, keep=keep)

    def __init__(self, directory: Path | None, options: Sequence[str], *, keep: bool) -> None:
        """Run `devcluster up` with the options and wait until it is ready; use `start` instead."""
        self._binary = devcluster_binary()
        self._temporary = directory is None and not keep
        # Named but not made here: `up` removes only what it made itself.
        self._directory = directory or Path(tempfile.gettempdir()) / f"devcluster-{secrets.token_hex(8)}"
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process, see stop
        self._process = subprocess.Popen(
            [self._binary, "up", f"--dir={self._directory}", "--stop-on-stdin-eof", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is for this process, which then stops the cluster
        )
        try:
            self._become_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def kubectl_command(self) -> list[str]:
        """A real kubectl that knows nothing of this cluster."""
        return [str(self._binary), "kubectl"]

    def kubectl(self, *arguments: str, stdin: str = "", token: str | None = None) -> str:
        """Run kubectl as the cluster's admin, or as the bearer of a token, and return what it prints.

        Raises:
            DevClusterError: It failed; with what it wrote to stderr.
        """
        options = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._directory / 'kubectl-cache'}"]
        if token is not None:
            options += ["--context=anonymous", f"--token={token}"]
        kubectl = subprocess.run(
            [self._binary, "kubectl", *options, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if kubectl.returncode != 0:
            raise DevClusterError(f"kubectl {' '.join(arguments)}: {kubectl.stderr.strip()}")
        return kubectl.stdout

    def apply(self, manifests: str) -> str:
        """Create or change the objects of a YAML text with `kubectl apply`; returns a line for each.

        Raises:
            DevClusterError: The API server refused one of them.
        """
        return self.kubectl("apply", "-f", "-", stdin=manifests)

    def token(
        self,
        namespace: str,
        service_account: str,
        audience: str | None = None,
        duration: timedelta | None = None,
    ) -> str:
        """Return a token of a ServiceAccount, made by TokenRequest as the admin.

        Args:
            namespace: Of the ServiceAccount.
            service_account: Its name.
            audience: By default the API server's own.
            duration: 10 minutes or more; by default 1 hour. The cluster may give less.

        Raises:
            DevClusterError: There is no such ServiceAccount, or the API server refused the duration.
        """
        options = [f"--namespace={namespace}"]
        if audience is not None:
            options.append(f"--audience={audience}")
        if duration is not None:
            options.append(f"--duration={_go_duration(duration)}")
        return self.kubectl("create", "token", service_account, *options).strip()

    def stop_apiserver(self) -> None:
        """Stop the API server alone (3 s at most); nobody else can take its port meanwhile."""
        self._command("stop kube-apiserver")
        self._await_event("stopped")
        self.pids.pop("kube-apiserver", None)

    def start_apiserver(self) -> None:
        """Start the API server again, on the same port, and wait until it is ready.

        Raises:
            DevClusterError: It ended before it was ready.
        """
        self._command("start kube-apiserver")
        self._become_ready()

    def ended(self) -> str | None:
        """Tell which part ended by itself since the cluster was ready, by name; None while all run."""
        if self._process.poll() is not None:
            return "devcluster"
        return next((name for name, pid in self.pids.items() if not _is_alive(pid)), None)

    def stop(self) -> None:
        """Stop everything and remove the folder, unless it is to be kept; a second call does nothing."""
        _close(self._process.stdin)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _close(self._process.stdout)
        self._stderr.close()
        if self._temporary:
            # `up` has done so already, unless it was killed.
            shutil.rmtree(self._directory, ignore_errors=True)

    def _become_ready(self) -> None:
        ready = self._await_event("ready")
        self.server = ready["server"]
        self.kubeconfig = Path(ready["kubeconfig"])
        self.ca_file = Path(ready["ca_file"])
        self.audit_log = Path(ready["audit_log"])
        self.pids = ready["pids"]
        self.seconds = ready["seconds"]

    def _command(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise DevClusterError("The cluster has ended already") from error

    def _await_event(self, kind: str) -> dict[str, Any]:
        """Read events until one of the kind comes; `up` bounds how long that takes.

        Events of components that ended by themselves are passed over: tests kill them on purpose.
        """
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
            if event["event"] == "failed":
                raise DevClusterError(event["message"])
        self._process.wait()
        self._stderr.seek(0)
        raise DevClusterError(self._stderr.read().strip() or "The cluster ended without a word")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()


def _go_duration(duration: timedelta) -> str:
    """Write a duration as Go's flags take it, as in "3600s"."""
    return f"{int(duration.total_seconds())}s"

"""The first run, from top to bottom: a cluster, a server, a config, a role, a token, and what it left behind."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psutil

from devcluster import report
from devcluster.again import another_port, run_again, why_not
from devcluster.binaries import devcluster_binary, grpcurl
from devcluster.cluster import DevClusterError
from devcluster.compiling import compile_commands
from devcluster.console import Console
from devcluster.credential import Credential
from devcluster.first_token import CONFIG, REVOCABLE, ROLE, Admin, ApiError, audit_event, is_accepted, who_is
from devcluster.golang import GoError
from devcluster.policies import CLUSTER, write_policies
from devcluster.rbac import DEMO, KUBEVEND, KUBEVEND_NAMESPACE, OBJECTS, QUICKSTART_NAMESPACE, manifests, rights
from devcluster.server import KubevendServer, ServerError
from devcluster.state import State, StateError, copy_protoset, install_commands
from devcluster.stopping import Stopped, StopSignals
from devcluster.target import GivenCluster, OwnCluster, Target, TargetError, given_kubeconfig
from kubevend_server.policy.policies import load
from kubevend_server.policy_folder import read_folder
from kubevend_server.settings import IssuanceSettings

_DEFAULT_PORT = 7443
_TICK_SECONDS = 0.5
_LOG_TAIL_LINES = 15
_USUAL_AUDIENCE = "https://kubernetes.default.svc"
"""Of an API server, to show what would be made before it can be asked for its own."""
_SETTINGS_HEADER = """\
# Every `make run` writes this file anew: what is changed here does not last.
# server/kubevend_server/settings/sections.py explains every setting.
"""


class FirstRunError(Exception):
    """A step cannot be done; the message says what to do."""


_EXPECTED = (FirstRunError, StateError, TargetError, GoError, DevClusterError, ServerError, ApiError, OSError)


class FirstRun:
    """One run, step by step. Whatever a step starts, `cleanup` stops."""

    def __init__(self, folder: Path, signals: StopSignals, cleanup: ExitStack) -> None:
        """Take what it works with.

        Args:
            folder: The state folder.
            signals: Tell when to stop.
            cleanup: Takes what must be stopped at the end, in reverse order.
        """
        self._folder = folder
        self._signals = signals
        self._cleanup = cleanup
        self._console = Console()

    def run(self) -> int:
        """Do everything, then stay until a signal comes or something dies.

        Returns:
            The status of the process: 0 when it was stopped after it was ready, 1 when something failed.

        Raises:
            Stopped: A signal came before it was ready.
        """
        ready = False
        try:
            state = State(self._folder)
            state.take()
            kubeconfig = given_kubeconfig(state)
            port = chosen_port(kubeconfig)
            write_policies(state.policies)
            check_policies(state)
            self._cleanup.callback(self._console.line, "Everything that was started is stopped.")
            self._compile()
            target = self._start_cluster(state, kubeconfig)
            self._make_objects(state, target)
            credential = self._make_credential(state, target)
            self._make_rights(state, target, credential)
            server = self._start_server(state, target, credential, port)
            self._leave_directions(state, target, server)
            self._issue_first_token(state, target, server, credential)
            self._end_a_token(state, target, server, credential)
            report.show_next_steps(self._console, state)
            ready = True
            self._stay(state, target, server, credential)
        except Stopped:
            self._console.line()
            self._console.line("Stopping what was started …")
            if not ready:
                raise
        except _EXPECTED as error:
            self._console.error(f"✗ {error}")
            return 1
        return 0

    def _compile(self) -> None:
        """Make sure that the cluster's binary and grpcurl are there, and put the commands where PATH finds them."""
        with self._console.step("Find the development cluster and grpcurl, or compile them") as step:
            compiled = compile_commands(step.say)
            install_commands(grpcurl(), devcluster_binary())
            step.result = f"{'compiled' if compiled else 'compiled before'}; grpcurl and kubectl are in .venv/bin"
        self._signals.check()

    def _start_cluster(self, state: State, kubeconfig: str) -> Target:
        """Start the development cluster, or find the one that KUBECONFIG names."""
        if kubeconfig:
            given = GivenCluster.find(kubeconfig, devcluster_binary())
            state.link(kubeconfig, state.kubeconfig_file)
            self._console.line(f"KUBECONFIG is set, so this uses the cluster {given.context}, {given.server}")
            return given
        with self._console.step("Start the development cluster: etcd and a real kube-apiserver") as step:
            own = OwnCluster(state)
            self._cleanup.callback(own.stop)
            step.result = f"{own.server}, kept in {state.shown(state.cluster)}"
        self._signals.check()
        return own

    def _make_objects(self, state: State, target: Target) -> None:
        """Make what kubevend needs in the cluster, after asking if the cluster is somebody else's."""
        if isinstance(target, GivenCluster):
            state.write(state.manifests, manifests([*OBJECTS, *rights([_USUAL_AUDIENCE])]))
            self._ask_for_objects(state, target)
        with self._console.step("Make two namespaces and two ServiceAccounts") as step:
            target.kubectl("apply", "-f", "-", stdin=manifests(OBJECTS))
            step.result = f"{QUICKSTART_NAMESPACE}/{DEMO} and {KUBEVEND_NAMESPACE}/{KUBEVEND}"
        self._signals.check()

    def _make_rights(self, state: State, target: Target, credential: Credential) -> None:
        """Give kubevend the rights that the roles need, and hold it to them."""
        made = list(rights(credential.audiences))
        state.write(state.manifests, manifests([*OBJECTS, *made]))
        with self._console.step("Make the least rights that do, and the admission policies that hold to them") as step:
            target.kubectl("apply", "-f", "-", stdin=manifests(made))
            step.result = f"{len(made)} objects, see {state.shown(state.manifests)}"
        self._signals.check()

    def _ask_for_objects(self, state: State, given: GivenCluster) -> None:
        console, manifests = self._console, state.shown(state.manifests)
        console.heading(f"In the cluster {given.context} ({given.server}) this makes, where it is not there yet:")
        console.facts([(made.what, made.why) for made in [*OBJECTS, *rights([_USUAL_AUDIENCE])]])
        console.line(
            f"and tokens of {KUBEVEND_NAMESPACE}/{KUBEVEND} and {QUICKSTART_NAMESPACE}/{DEMO} that live for an hour. "
            f"The manifests are in {manifests}; `kubectl delete -f {manifests}` takes all of it away again, the "
            "namespaces with whatever else is in them."
        )
        if os.environ.get("KUBEVEND_YES") == "1":
            return
        if not sys.stdin.isatty():
            raise FirstRunError(
                "Nothing was made: without a terminal nobody can be asked. If this is what you want, say so "
                "with KUBEVEND_YES=1; for a development cluster instead, unset KUBECONFIG."
            )
        if not console.ask("Make them?"):
            raise FirstRunError("Nothing was made. For a development cluster instead, unset KUBECONFIG.")

    def _make_credential(self, state: State, target: Target) -> Credential:
        with self._console.step("Make kubevend's own token, a fresh one each half hour") as step:
            credential = Credential(target, state)
            step.result = state.shown(state.credential)
        self._signals.check()
        return credential

    def _start_server(self, state: State, target: Target, credential: Credential, port: int) -> KubevendServer:
        """Start kubevend, with the cluster's ServiceAccounts among its callers."""
        state.write(state.cluster_ca, target.ca)
        cluster = {
            "kubernetes_host": target.server,
            "ca_file": str(state.cluster_ca) if target.ca else "",
            "token_file": str(state.credential),
            "issuers": [credential.issuer],
        }
        with self._console.step("Start kubevend-server, with TLS") as step:
            server = KubevendServer(
                state.folder,
                address=f"127.0.0.1:{port}",
                overrides={
                    "kubernetes": {"credential_folders": {str(state.credentials): [target.server]}},
                    "callers": {"clusters": {CLUSTER: cluster}},
                    "issuance": asdict(IssuanceSettings()),
                },
                policies=None,
            )
            settings = state.folder / "settings.toml"
            state.write(settings, _SETTINGS_HEADER + settings.read_text())
            self._cleanup.callback(_stop_server, server)
            server.start()
            step.result = f"{server.address}, settings in {state.shown(settings)}"
        self._signals.check()
        return server

    def _leave_directions(self, state: State, target: Target, server: KubevendServer) -> None:
        """Write the file that a shell reads to find everything."""
        copy_protoset(state)
        state.write_env(
            {
                "KUBEVEND_ADDRESS": server.address,
                "KUBEVEND_CA_FILE": str(state.folder / "ca.crt"),
                "KUBEVEND_TOKEN_FILE": str(state.folder / "admin.token"),
                "KUBEVEND_AUDIT_FILE": str(server.audit_file),
                "KUBEVEND_PROTOSET": str(state.protoset),
                "KUBECONFIG": target.kubeconfig,
            }
        )

    def _issue_first_token(self, state: State, target: Target, server: KubevendServer, credential: Credential) -> None:
        """Make the config and the role over the API, issue a token, try it, and show what it left."""
        console = self._console
        with Admin(server.address, state.folder / "ca.crt", server.admin_token) as admin:
            with console.step(f"Make configs/{CONFIG}: how kubevend reaches the cluster") as step:
                step.result = admin.put_config(target.server, target.ca, state.credential)
            with console.step(f"Make roles/{ROLE}: what may be issued") as step:
                step.result = admin.put_role(ROLE, QUICKSTART_NAMESPACE, DEMO, credential.audiences)
            with console.step(f"Issue a token through roles/{ROLE}") as step:
                token = admin.issue(ROLE)
                step.result = f"{token.namespace}/{token.service_account}, for {token.granted_ttl.ToTimedelta()}"
            with console.step("Show it to the API server, and ask who we are") as step:
                review = who_is(token.token, target.server, target.ca)
                step.result = review.username
            lease = admin.lease(token.lease)
        report.show_token(console, token, review)
        report.show_lease(console, lease)
        report.show_audit_event(console, audit_event(server.audit_file, token.lease), state.shown(server.audit_file))
        if target.audit_log is not None:
            report.show_kubernetes_event(console, target.audit_log, token, state.shown(target.audit_log))
        self._signals.check()

    def _end_a_token(self, state: State, target: Target, server: KubevendServer, credential: Credential) -> None:
        """Issue a token that can be ended, and end it."""
        console = self._console
        with Admin(server.address, state.folder / "ca.crt", server.admin_token) as admin:
            with console.step(f"Make roles/{REVOCABLE}: what is issued through it can be ended") as step:
                step.result = admin.put_role(REVOCABLE, QUICKSTART_NAMESPACE, DEMO, credential.audiences)
            with console.step(f"Issue a token through roles/{REVOCABLE}, and show it to the API server") as step:
                token = admin.issue(REVOCABLE)
                step.result = who_is(token.token, target.server, target.ca).username
            with console.step("End its lease") as step:
                step.result = admin.revoke(token.lease)
            with console.step("Wait until the API server forgets the token, which it remembers for 10 s") as step:
                while is_accepted(token.token, target.server, target.ca):
                    self._signals.check()
                    time.sleep(_TICK_SECONDS)
                step.result = "it answers 401 Unauthorized"
        self._signals.check()

    def _stay(self, state: State, target: Target, server: KubevendServer, credential: Credential) -> None:
        """Keep the credential fresh until a signal comes.

        Raises:
            Stopped: A signal came.
            FirstRunError: The server or the cluster ended by itself.
        """
        while True:
            self._signals.check()
            if server.process is not None and server.process.poll() is not None:
                log = server.log_file.read_text().splitlines()[-_LOG_TAIL_LINES:]
                raise FirstRunError(
                    f"kubevend-server ended by itself (status {server.process.returncode}), so everything stops. "
                    f"The end of its log, {state.shown(server.log_file)}:\n" + "\n".join(log)
                )
            dead = target.ended()
            if dead is not None:
                raise FirstRunError(
                    f"{dead} of the development cluster ended by itself, so everything stops. Its log is in "
                    f"{state.shown(state.cluster)}; `make run` starts it again."
                )
            failure = credential.refresh()
            if failure is not None:
                self._console.error(f"kubevend's own token could not be renewed, trying again: {failure}")
            time.sleep(_TICK_SECONDS)


def check_policies(state: State) -> None:
    """Hold the access policies against the schema, as the server will once the cluster runs.

    Raises:
        FirstRunError: The server would not start with them.
    """
    try:
        load(read_folder(state.policies))
    except (OSError, ValueError) as error:
        raise FirstRunError(
            f"{error}\nCorrect the policies in {state.shown(state.policies)} and run again. Of those that the first "
            "run wrote, a file that you delete is written anew."
        ) from error


def chosen_port(kubeconfig: str) -> int:
    """Return the port for kubevend: KUBEVEND_PORT, or 7443; 0 takes a free one.

    Args:
        kubeconfig: What KUBECONFIG stands for, for the command that is suggested.

    Raises:
        FirstRunError: It is no port, or taken.
    """
    text = os.environ.get("KUBEVEND_PORT") or str(_DEFAULT_PORT)
    again = run_again(KUBECONFIG=kubeconfig, KUBEVEND_PORT=another_port())
    if not text.isdecimal() or not 0 <= int(text) < 1 << 16:
        raise FirstRunError(f"KUBEVEND_PORT is {text!r}; it must be a port, as in {again}")
    port = int(text)
    refused = why_not(port)
    if refused is not None:
        raise FirstRunError(
            f"Port {port} of 127.0.0.1, on which kubevend would listen, is not to be had: {refused.strerror}"
            f"{_listener(port)}. Stop what has it, or choose another: {again}"
        )
    return port


def _listener(port: int) -> str:
    """Name the process that listens on a port, where the system tells."""
    try:
        for found in psutil.net_connections("tcp"):
            listens = found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
            if listens and found.pid:
                return f" ({psutil.Process(found.pid).name()}, process {found.pid})"
    except psutil.Error:
        pass  # other users' processes are not ours to see
    return ""


def _stop_server(server: KubevendServer) -> None:
    if server.process is not None:
        server.stop()

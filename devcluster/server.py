"""A kubevend server as a process of its own, on loopback, for `make run` and the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import IO, Any

from devcluster.certificates import make_loopback_certificate

BOOTSTRAP_POLICY = """\
// The bootstrap admin may do everything. Take this away once others may do what is needed.
@id("bootstrap-admin")
permit (principal is Admin, action, resource);
"""


class ServerError(Exception):
    """The server did not start; the message has the end of its log."""


class KubevendServer:
    """A running kubevend-server.

    Attributes:
        folder: where everything of it is: `settings.toml`, `ca.crt`, `admin.token`, `audit.jsonl`, `kubevend.log`.
        address: `127.0.0.1:{port}`.
        process: the process.
        ports: of each listener, by its name: `bearer`, or the trust domain.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1:0",
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        policies: str | None = BOOTSTRAP_POLICY,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (),
    ) -> None:
        """Write what the server needs into a folder, where it is not there yet. `start` starts it.

        Args:
            folder: the folder.
            address: `host:port` to listen on; port 0 takes a free one.
            overrides: settings, by section, over those that `settings` makes.
            policies: the access policies, Cedar; None for those that are in the folder's `policies` already.
            environment: what to add to the process's environment.
            command: what to run in place of `python -m kubevend_server.cli`.
        """
        self.folder = folder
        self.address = address
        self._environment = {**os.environ, **(environment or {})}
        self._command = command or (sys.executable, "-m", "kubevend_server.cli")
        self.process: subprocess.Popen[str] | None = None
        self.ports: dict[str, int] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "policies").mkdir(exist_ok=True)
        (folder / "credentials").mkdir(mode=0o700, exist_ok=True)
        if policies is not None:
            (folder / "policies" / "policies.cedar").write_text(policies)
        if not _has_content(folder / "server.key"):
            make_loopback_certificate(folder)
        sections = self._settings()
        for section, values in (overrides or {}).items():
            sections.setdefault(section, {}).update(values)
        (folder / "settings.toml").write_text(to_toml(sections))

    @property
    def audit_file(self) -> Path:
        """The audit log."""
        return self.folder / "audit.jsonl"

    @property
    def store_file(self) -> Path:
        """The database."""
        return self.folder / "kubevend.db"

    @property
    def log_file(self) -> Path:
        """The process log."""
        return self.folder / "kubevend.log"

    @property
    def admin_token(self) -> str:
        """The bootstrap admin's token, once the server has started."""
        return (self.folder / "admin.token").read_text().strip()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._running().pid

    def events(self) -> list[dict[str, Any]]:
        """The audit log's whole lines so far, parsed."""
        lines = self.audit_file.read_text().split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")]

    def start(self) -> None:
        """Start the server, and return once it serves.

        Raises:
            ServerError: it ended before it served.
        """
        settings = str(self.folder / "settings.toml")
        self.process = subprocess.Popen(
            [*self._command, "serve", "--settings", settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,  # the terminal's Ctrl-C is for whoever started this, who then stops it
        )
        stderr = self.process.stderr
        if stderr is None:
            raise ServerError("The server has no log.")
        log = self.log_file.open("a", buffering=1)
        said = []
        for line in stderr:
            log.write(line)
            said.append(line)
            if '"event": "listening"' in line:
                found = json.loads(line)
                self.ports[found["listener"]] = found["port"]
            if '"event": "serving"' in line:
                port = json.loads(line)["port"]
                self.address = f"{self.address.rpartition(':')[0]}:{port}"
                Thread(target=_copy, args=(stderr, log), daemon=True).start()
                return
        log.close()
        stderr.close()
        self.process.wait()
        raise ServerError(f"kubevend-server did not start:\n{''.join(said[-20:])}")

    def terminate(self) -> None:
        """Ask it to stop, as Kubernetes would (SIGTERM)."""
        self._running().send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it at once (SIGKILL)."""
        self._running().kill()
        self._running().wait()

    def stop(self) -> int:
        """Stop it and wait. Returns its exit code; a server that does not stop in time is killed."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            raise ServerError("The server was not started.")
        return self.process

    def _settings(self) -> dict[str, dict[str, Any]]:
        folder = self.folder
        return {
            "listener": {
                "address": self.address,
                "certificate_file": str(folder / "server.crt"),
                "private_key_file": str(folder / "server.key"),
            },
            "store": {"url": f"sqlite:///{self.store_file}", "key_file": str(folder / "store.key")},
            "audit": {"file": str(self.audit_file), "key_file": str(folder / "audit.key")},
            "callers": {"admin_token_file": str(folder / "admin.token")},
            "policy": {"folder": str(folder / "policies")},
            "kubernetes": {"credential_folders": {str(folder / "credentials"): ["*"]}},
            "metrics": {"address": ""},
        }


def _has_content(path: Path) -> bool:
    """Whether a file is there and not empty, as an interruption leaves it between its making and its writing."""
    return path.exists() and path.stat().st_size > 0


def to_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Write settings as TOML. A value that is itself a mapping becomes a table of its own, or one for each in it."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        nested = {key: value for key, value in values.items() if isinstance(value, Mapping)}
        # JSON writes strings, numbers, booleans and lists of them as TOML does.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in nested]
        for key, tables in nested.items():
            plain = {name: value for name, value in tables.items() if not isinstance(value, Mapping)}
            if plain:
                lines.append(f"[{section}.{key}]")
                lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items()]
            for name, table in tables.items():
                if name not in plain:
                    lines.append(f"[{section}.{key}.{json.dumps(name)}]")
                    lines += [f"{field} = {json.dumps(value)}" for field, value in table.items()]
    return "\n".join(lines) + "\n"


def _copy(source: IO[str], target: IO[str]) -> None:
    with source, target:
        for line in source:
            target.write(line)

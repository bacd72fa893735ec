"""The clusters of all configs, connected when they are first called."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kubevend_server import configs
from kubevend_server.cluster.connection import Connection, Transport
from kubevend_server.cluster.credentials import (
    Anonymous,
    ClientCertificateFiles,
    Credential,
    Presented,
    Stored,
    TokenFile,
    unusable,
)
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.files import WatchedFile

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's own credential."""


class OwnCluster:
    """The cluster that kubevend itself runs in, as a pod sees it."""

    def __init__(self, folder: Path = SERVICE_ACCOUNT_FOLDER, environ: Mapping[str, str] = os.environ) -> None:
        """Take the folder with `token` and `ca.crt`, and the environment that names the API server."""
        self._environ = environ
        # One for all configs, so that the files are read once for each rotation.
        self.token = TokenFile(folder / "token")
        self._ca_file = WatchedFile(folder / "ca.crt")

    @property
    def host(self) -> str:
        """The pod's own API server as an https URL, or empty outside of a pod."""
        host = self._environ.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environ.get("KUBERNETES_SERVICE_PORT", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}" if host else ""

    def endpoint(self, label: str, ca_data: str = "") -> Endpoint:
        """Where it is. `label` says what uses it, `ca_data` which CA to trust in place of the pod's own.

        Raises:
            FailedPrecondition: kubevend does not run in a pod.
        """
        if not self.host:
            raise unusable(
                f"{label} uses the in-cluster credential, but kubevend does not run in a pod (KUBERNETES_SERVICE_HOST "
                "is not set). Give it kubernetes_host and another credential.",
                label,
            )
        return Endpoint(label, self.host, ca_data, self._ca_file)


class Clusters:
    """A connection for each config, made again when the config changes."""

    def __init__(self, own: OwnCluster, rules: ConfigRules, transport: Transport) -> None:
        self._own = own
        self._rules = rules
        self._transport = transport
        self._connections: dict[str, tuple[str, Connection]] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def of(self, config: Config) -> Connection:
        """The connection to a config's cluster.

        Raises:
            FailedPrecondition: the config cannot be used as it is.
        """
        known = self._connections.get(config.name)
        if known is not None and known[0] == config.etag:
            return known[1]
        connection = self.connect(config)
        self.forget(config.name)
        self._connections[config.name] = (config.etag, connection)
        return connection

    def connect(self, config: Config, *, anonymous: bool = False) -> Connection:
        """A connection of its own to a config's cluster.

        Args:
            config: the config.
            anonymous: show no credential.

        Raises:
            FailedPrecondition: the config cannot be used as it is.
        """
        if config.credential.kind == "in_cluster":
            endpoint = self._own.endpoint(config.name, config.kubernetes_ca_cert)
        else:
            endpoint = Endpoint(config.name, config.kubernetes_host, config.kubernetes_ca_cert)
        endpoint = replace(endpoint, given=_given(config.credential))
        return Connection(endpoint, Anonymous() if anonymous else self._credential(config), self._transport)

    def forget(self, name: str) -> None:
        """Close a config's connections once what is under way is done."""
        known = self._connections.pop(name, None)
        if known is not None:
            retiring = asyncio.get_running_loop().create_task(known[1].retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Close every connection."""
        for name in list(self._connections):
            self.forget(name)
        await asyncio.gather(*self._retiring)

    def _credential(self, config: Config) -> Credential:
        # Held against the settings at every new version of a file: settings change, and so does where a link leads.
        credential = config.credential

        def guard(path: str) -> str:
            return self._rules.file_fault(path, config.kubernetes_host)

        if credential.kind == "in_cluster":
            return self._own.token
        if credential.kind == "token_file":
            return TokenFile(Path(credential.token_file), guard)
        if credential.kind == "client_certificate_files":
            files = Path(credential.certificate_file), Path(credential.private_key_file)
            return ClientCertificateFiles(*files, guard)
        if credential.kind == "client_certificate":
            pair = Presented(certificate=credential.certificate, private_key=credential.private_key)
            return Stored("the client certificate", pair)
        return Stored("the stored token (service_account_jwt)", Presented(credential.service_account_jwt))


def _given(credential: configs.Credential) -> str:
    """How a credential is given in a request, as a member of proto JSON, with words in place of secrets."""
    given: dict[str, object] = {
        "in_cluster": {"inCluster": {}},
        "token_file": {"tokenFile": credential.token_file},
        "service_account_jwt": {"serviceAccountJwt": "TOKEN"},
        "client_certificate": {"clientCertificate": {"certificate": "PEM", "privateKey": "PEM"}},
        "client_certificate_files": {
            "clientCertificateFiles": {
                "certificateFile": credential.certificate_file,
                "privateKeyFile": credential.private_key_file,
            }
        },
    }
    return json.dumps(given[credential.kind], ensure_ascii=False, separators=(",", ":"))[1:-1]

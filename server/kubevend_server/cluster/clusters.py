"""The clusters of all configs, connected when they are first called."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from kubevend_server.cluster.connection import Connection, Endpoint, Transport
from kubevend_server.cluster.credentials import BearerToken, StaticToken, TokenFile
from kubevend_server.configs import Config
from kubevend_server.errors import FailedPrecondition

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's own credential."""


class OwnCluster:
    """The cluster that kubevend itself runs in, as a pod sees it."""

    def __init__(self, folder: Path = SERVICE_ACCOUNT_FOLDER, environ: Mapping[str, str] = os.environ) -> None:
        """Take the folder with `token` and `ca.crt`, and the environment that names the API server."""
        self._folder = folder
        self._environ = environ
        # One for all configs, so that the file is read once for each rotation.
        self.token = TokenFile(folder / "token")

    @property
    def host(self) -> str:
        """The pod's own API server as an https URL, or empty outside of a pod."""
        host = self._environ.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environ.get("KUBERNETES_SERVICE_PORT", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}" if host else ""

    def endpoint(self, ca_data: str = "") -> Endpoint:
        """Where it is.

        Raises:
            FailedPrecondition: kubevend does not run in a pod.
        """
        if not self.host:
            raise FailedPrecondition(
                "CREDENTIAL_UNUSABLE",
                "The config uses the in-cluster credential, but kubevend does not run in a pod "
                "(KUBERNETES_SERVICE_HOST is "
                "not set). Give the config kubernetes_host and a token_file or a service_account_jwt.",
                metadata={"subject": "in_cluster"},
            )
        return Endpoint(self.host, ca_data, "" if ca_data else str(self._folder / "ca.crt"))


class Clusters:
    """A connection for each config, made again when the config changes."""

    def __init__(self, own: OwnCluster, transport: Transport) -> None:
        self._own = own
        self._transport = transport
        self._connections: dict[str, tuple[str, Connection]] = {}

    async def of(self, config: Config) -> Connection:
        """The connection to a config's cluster.

        Raises:
            FailedPrecondition: the config cannot be used as it is.
        """
        known = self._connections.get(config.name)
        if known is not None and known[0] == config.etag:
            return known[1]
        connection = self.connect(config)
        self._connections[config.name] = (config.etag, connection)
        if known is not None:
            await known[1].retire()
        return connection

    def connect(self, config: Config) -> Connection:
        """A connection of its own to a config's cluster.

        Raises:
            FailedPrecondition: the config cannot be used as it is.
        """
        credential: BearerToken
        if config.credential.kind == "in_cluster":
            endpoint, credential = self._own.endpoint(config.kubernetes_ca_cert), self._own.token
        else:
            endpoint = Endpoint(config.kubernetes_host, config.kubernetes_ca_cert)
            credential = (
                TokenFile(Path(config.credential.token_file))
                if config.credential.kind == "token_file"
                else StaticToken(config.credential.service_account_jwt)
            )
        try:
            return Connection(endpoint, credential, self._transport)
        except (OSError, ssl.SSLError) as error:
            raise FailedPrecondition(
                "CREDENTIAL_UNUSABLE",
                f"The CA certificates of {config.name} cannot be read: {error}.",
                metadata={"config": config.name, "subject": config.name},
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        for _, connection in self._connections.values():
            await connection.retire()

"""Where a role's cluster is."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubevend import cluster as pods
from kubevend.agent.config import Cluster
from kubevend.cli import kubeconfig_file
from kubevend.cli.cluster_of_role import of_config
from kubevend.client import Client
from kubevend.errors import ClientError


@dataclass(frozen=True, slots=True)
class Place:
    """An API server's URL, and the authorities that vouch for it: PEM, or empty for the system's."""

    server: str
    authority: bytes = b""

    def values(self) -> dict[str, str]:
        """Them, for templates."""
        return {
            "cluster_server": self.server,
            "cluster_ca": self.authority.decode(errors="replace"),
            "cluster_ca_base64": b64encode(self.authority).decode(),
        }

    def entry(self) -> dict[str, Any]:
        """Them, for kubeconfigs."""
        return kubeconfig_file.cluster(self.server, self.authority)


def find(client: Client, role: str, given: Cluster) -> Place:
    """Where it is: as given, else as the role's config says.

    Never by the pod's own cluster or a kubeconfig's unasked: the token would be shown to whatever API server that is.

    Raises:
        KubevendError: kubevend failed or does not say (CLUSTER_UNKNOWN), or a file cannot be read (FILE_UNREADABLE).
    """
    if given.server or given.in_cluster:
        server, authority = pods.target(given.server, given.certificate_authority)
        return Place(server, _read(Path(authority)) if authority else b"")
    found, why = of_config(client, role)
    if found is None:
        raise ClientError(
            f"Nothing says where the cluster of {role} is: {why}. Give cluster.server and "
            "cluster.certificate_authority, or cluster.in_cluster: true where it is the pod's own.",
            reason="CLUSTER_UNKNOWN",
        )
    return Place(found.kubernetes_host, found.kubernetes_ca_cert.encode())


def _read(authority: Path) -> bytes:
    try:
        return authority.read_bytes()
    except OSError as error:
        raise ClientError(
            f"cluster.certificate_authority: {authority} cannot be read: {error.strerror}.", reason="FILE_UNREADABLE"
        ) from error

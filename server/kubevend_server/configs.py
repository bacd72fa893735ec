"""Configs: named connections to Kubernetes clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

CredentialKind = Literal["in_cluster", "token_file", "service_account_jwt"]


@dataclass(frozen=True, slots=True)
class Credential:
    """With what kubevend calls a cluster.

    Attributes:
        kind: the pod's own token, a file that holds a token, or the token itself.
        token_file: an absolute path, for `token_file`.
        service_account_jwt: the token, for `service_account_jwt`; kept out of `repr`.
    """

    kind: CredentialKind = "in_cluster"
    token_file: str = ""
    service_account_jwt: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """A named connection to one Kubernetes cluster.

    Attributes:
        name: `configs/{id}`.
        kubernetes_host: an https URL without a path; empty for the pod's own API server.
        kubernetes_ca_cert: PEM; empty for the pod's own CA file, or the system's.
        credential: with what kubevend calls.
        etag: another one for each version.
    """

    name: str
    kubernetes_host: str = ""
    kubernetes_ca_cert: str = ""
    credential: Credential = field(default_factory=Credential)
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None

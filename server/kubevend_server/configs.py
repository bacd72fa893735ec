"""Configs: named connections to Kubernetes clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

CredentialKind = Literal[
    "in_cluster", "token_file", "service_account_jwt", "client_certificate", "client_certificate_files"
]


@dataclass(frozen=True, slots=True)
class Credential:
    """With what kubevend calls a cluster.

    Attributes:
        kind: the pod's own token, a file that holds a token, the token itself, a certificate with its key, or the files
            that hold these.
        token_file: an absolute path, for `token_file`.
        service_account_jwt: the token, for `service_account_jwt`; kept out of `repr`.
        certificate: the chain, PEM, for `client_certificate`.
        private_key: its key, PEM; kept out of `repr`.
        certificate_file, private_key_file: absolute paths, for `client_certificate_files`.
    """

    kind: CredentialKind = "in_cluster"
    token_file: str = ""
    service_account_jwt: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    certificate_file: str = ""
    private_key_file: str = ""

    @property
    def secret(self) -> str:
        """The part of it that must be sealed where it is stored."""
        return self.service_account_jwt or self.private_key

    @property
    def files(self) -> dict[str, str]:
        """The files that it names, by the names of their fields."""
        named = {
            "token_file": self.token_file,
            "client_certificate_files.certificate_file": self.certificate_file,
            "client_certificate_files.private_key_file": self.private_key_file,
        }
        return {field_name: path for field_name, path in named.items() if path}


@dataclass(frozen=True, slots=True)
class Config:
    """A named connection to one Kubernetes cluster.

    Attributes:
        name: `configs/{id}`.
        kubernetes_host: an https URL without a path; empty for the pod's own API server.
        kubernetes_ca_cert: PEM; empty for the pod's own CA file, or the system's.
        credential: with what kubevend calls.
        labels: pairs for policies to decide by.
        etag: another one for each version.
    """

    name: str
    kubernetes_host: str = ""
    kubernetes_ca_cert: str = ""
    credential: Credential = field(default_factory=Credential)
    labels: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None

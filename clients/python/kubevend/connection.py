"""Where kubevend is, and what to show it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kubevend.errors import ClientError

VARIABLES = {
    "address": "KUBEVEND_ADDRESS",
    "ca_file": "KUBEVEND_CA_FILE",
    "token_file": "KUBEVEND_TOKEN_FILE",
    "client_cert_file": "KUBEVEND_CLIENT_CERT_FILE",
    "client_key_file": "KUBEVEND_CLIENT_KEY_FILE",
}
"""The environment variable of each setting."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach kubevend, and as whom. Files are read when they are needed, and again when they change.

    Attributes:
        address: `host:port`, or `unix:/path` of a socket.
        ca_file: PEM, whose certificates the server's is held against; None for those that gRPC comes with.
        token_file: a ServiceAccount's token or another bearer token, to call with.
        client_cert_file: PEM, a certificate to call with, and those that lead to its root; in place of `token_file`.
        client_key_file: PEM, its key.
        insecure: plain text, which goes to loopback addresses and sockets only.

    Raises:
        ClientError: they make no sense (SETTINGS_INVALID).
    """

    address: str
    ca_file: Path | None = None
    token_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ClientError(fault, reason="SETTINGS_INVALID")
        for name in ("ca_file", "token_file", "client_cert_file", "client_key_file"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, Path(given))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Take them from KUBEVEND_ADDRESS, KUBEVEND_CA_FILE, KUBEVEND_TOKEN_FILE, KUBEVEND_CLIENT_CERT_FILE and
        KUBEVEND_CLIENT_KEY_FILE. An empty variable counts as one that is not set.

        Raises:
            ClientError: they make no sense (SETTINGS_INVALID).
        """  # noqa: D205 - the names do not fit on one line
        found = os.environ if environ is None else environ
        given = {name: Path(found[key]) if found.get(key) else None for name, key in VARIABLES.items()}
        return cls(
            found.get(VARIABLES["address"], ""),
            ca_file=given["ca_file"],
            token_file=given["token_file"],
            client_cert_file=given["client_cert_file"],
            client_key_file=given["client_key_file"],
        )

    def called(self, name: str) -> str:
        """What to call a setting in an error."""
        return f"{name} ({VARIABLES[name]})" if name in VARIABLES else name

    def _faults(self) -> list[str]:
        faults = []
        if not _is_address(self.address):
            given = f"is {self.address!r}" if self.address else "is not set"
            faults.append(f"{self.called('address')} {given}: it must be host:port, as 127.0.0.1:7443.")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            faults.append(
                f"{self.called('client_cert_file')} and {self.called('client_key_file')} go together: set both, "
                "or none."
            )
        if self.token_file is not None and self.client_cert_file is not None:
            faults.append(
                f"{self.called('token_file')} and {self.called('client_cert_file')} are both set: kubevend refuses a "
                "call that shows two identities. Set one."
            )
        if self.insecure and not is_local(self.address):
            faults.append(
                f"insecure is for a loopback address or a Unix socket, and {self.address} is none: others could read "
                "the tokens on their way. Use TLS."
            )
        if self.insecure and (self.ca_file or self.client_cert_file):
            faults.append("insecure goes without ca_file and client_cert_file, which are for TLS.")
        return faults


def is_local(address: str) -> bool:
    """Whether what is sent to an address stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host, _, port = address.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal()

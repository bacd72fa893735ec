"""TLS towards an API server: whom to trust, and what to show. Certificates are always verified."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kubevend_server.cluster.credentials import Presented, unusable
from kubevend_server.files import WatchedFile, why_unreadable


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a cluster is, and whom to trust.

    Attributes:
        label: where that is written, for people: `configs/default`.
        host: an https URL.
        ca_data: PEM, or empty.
        ca_file: a file with the same, read again when it changes, or None. Where both are empty the system's
            authorities count.
        given: how a config's credential is given, as a member of proto JSON; empty for a cluster of the settings.
    """

    label: str
    host: str
    ca_data: str = ""
    ca_file: WatchedFile | None = field(default=None, compare=False)
    given: str = ""

    @property
    def trusts(self) -> str:
        """Whom it trusts, for people."""
        if self.ca_data:
            return f"kubernetes_ca_cert of {self.label}"
        return f"the CA file {self.ca_file.path}" if self.ca_file else "the system's authorities"

    def authorities(self) -> str:
        """The certificates to trust as they are now, PEM; empty for the system's.

        Raises:
            FailedPrecondition: the CA file cannot be read, or is empty, which would stand for the system's.
        """
        if self.ca_data or self.ca_file is None:
            return self.ca_data
        path = str(self.ca_file.path)
        try:
            found = self.ca_file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise unusable(
                f"The CA file {path} of {self.label} cannot be read ({why_unreadable(error)}).", path
            ) from error
        if not found.strip():
            raise unusable(f"The CA file {path} of {self.label} is empty.", path)
        return found


def load_certificate(context: ssl.SSLContext, presented: Presented) -> None:
    """Have a TLS context show a client certificate.

    Raises:
        ssl.SSLError: the certificate and the key are no pair.
    """
    # OpenSSL by way of Python reads files only.
    with _in_memory(presented.certificate) as certificate, _in_memory(presented.private_key) as private_key:
        context.load_cert_chain(certificate, private_key)


@contextmanager
def _in_memory(text: str) -> Iterator[Path]:
    """A file that no disk sees, where the system has such; else a private one that is gone at once."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("kubevend")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            yield Path(f"/proc/self/fd/{descriptor}")
    else:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            yield Path(file.name)

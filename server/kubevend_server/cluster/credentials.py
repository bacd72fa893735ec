"""With what a cluster is called: a bearer token or a client certificate, from files that rotate or as it was stored."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography import x509

from kubevend_server.certificates import pair_fault
from kubevend_server.errors import FailedPrecondition
from kubevend_server.files import Guard, WatchedFile, why_unreadable

SERVICE_ACCOUNT_SUBJECT = re.compile(
    "system:serviceaccount:(?P<namespace>[a-z0-9][a-z0-9-]{0,62}):(?P<name>[a-z0-9][a-z0-9.-]{0,252})"
)
"""The name of a ServiceAccount as a user of the cluster."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What is shown to an API server.

    Attributes:
        token: a bearer token, or empty.
        certificate: a certificate chain, PEM, or empty.
        private_key: its key, PEM.
    """

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)

    def expiry(self) -> datetime | None:
        """Until when it is valid, as it says itself; None where it does not say."""
        if self.certificate:
            return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc
        try:
            return datetime.fromtimestamp(float(self._claims()["exp"]), UTC)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return None

    def owner(self) -> tuple[str, str] | None:
        """The namespace and the name of the ServiceAccount whose it is, as a token says itself, or None."""
        found = SERVICE_ACCOUNT_SUBJECT.fullmatch(str(self._claims().get("sub", "")))
        return (found["namespace"], found["name"]) if found else None

    def audiences(self) -> list[str]:
        """For whom it is, as a token says itself; empty where it does not say."""
        found = self._claims().get("aud")
        return [str(one) for one in found] if isinstance(found, list) else [found] if isinstance(found, str) else []

    def _claims(self) -> dict[str, Any]:
        try:
            return jwt.decode(self.token, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return {}


NOTHING = Presented()
"""What is shown by who shows nothing."""


class Credential(Protocol):
    """A source of what is shown to an API server."""

    @property
    def what(self) -> str:
        """What it is, for people, as `the token file /run/token`."""

    @property
    def renewed(self) -> bool:
        """Whether something else keeps it fresh."""

    def read(self) -> Presented:
        """What to show now.

        Raises:
            FailedPrecondition: there is nothing that could be shown.
        """


@dataclass(frozen=True, slots=True)
class Anonymous:
    """No credential."""

    what: str = "no credential"
    renewed: bool = True

    def read(self) -> Presented:
        """Nothing."""
        return NOTHING


@dataclass(frozen=True, slots=True)
class Stored:
    """A credential that is stored with its config; it changes with the config alone."""

    what: str
    presented: Presented
    renewed: bool = False

    def read(self) -> Presented:
        """It."""
        return self.presented


class TokenFile:
    """A token in a file that something else keeps fresh, as the kubelet does.

    A rotated token is used from the next call on. A file that is empty is being written anew: until it has been, the
    last token counts.
    """

    renewed = True

    def __init__(self, path: Path, guard: Guard = lambda _: "") -> None:
        """Take the file, and what says whether it may be read, wherever its name leads."""
        self._file = WatchedFile(path, guard)
        self._presented = NOTHING

    def __repr__(self) -> str:
        return f"TokenFile({str(self._file.path)!r})"

    @property
    def what(self) -> str:
        """Its path."""
        return f"the token file {self._file.path}"

    def read(self) -> Presented:
        """The token as the file has it now.

        Raises:
            FailedPrecondition: the file cannot be read, or has been empty from the first.
        """
        try:
            token = self._file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable(f"cannot be read ({why_unreadable(error)})") from error
        if not token.isprintable() or " " in token:
            raise self._unusable("holds more than one line, or no token")
        if token and token != self._presented.token:
            self._presented = Presented(token)
        if not self._presented.token:
            raise self._unusable("is empty")
        return self._presented

    def _unusable(self, why: str) -> FailedPrecondition:
        path = str(self._file.path)
        return unusable(
            f"The token file {path} {why}. Put a Kubernetes token into it, or give the config another credential.", path
        )


class ClientCertificateFiles:
    """A client certificate and its key in files that something else keeps fresh, as cert-manager does.

    A pair that does not match is being written anew: until it does, the last one that did counts.
    """

    renewed = True

    def __init__(self, certificate: Path, private_key: Path, guard: Guard = lambda _: "") -> None:
        """Take the files, and what says whether they may be read, wherever their names lead."""
        self._certificate = WatchedFile(certificate, guard)
        self._private_key = WatchedFile(private_key, guard)
        self._seen = ("", "")
        self._usable = NOTHING

    def __repr__(self) -> str:
        return f"ClientCertificateFiles({str(self._certificate.path)!r}, {str(self._private_key.path)!r})"

    @property
    def what(self) -> str:
        """Its path."""
        return f"the client certificate {self._certificate.path}"

    def read(self) -> Presented:
        """The pair as the files have it now.

        Raises:
            FailedPrecondition: they cannot be read, or never held a pair.
        """
        try:
            certificate, private_key = self._certificate.read(), self._private_key.read()
        except (OSError, UnicodeDecodeError) as error:
            path = str(getattr(error, "filename", None) or self._certificate.path)
            raise unusable(
                f"The client certificate's file {path} cannot be read ({why_unreadable(error)}). Put the certificate "
                "and its key there, or give the config another credential.",
                path,
            ) from error
        if self._usable is NOTHING or (certificate, private_key) != self._seen:
            self._seen = (certificate, private_key)
            fault = pair_fault(certificate, private_key)
            if not fault:
                self._usable = Presented(certificate=certificate, private_key=private_key)
            elif self._usable is NOTHING:
                path = str(self._certificate.path)
                raise unusable(f"{path} and {self._private_key.path} cannot be used: {fault}.", path)
        return self._usable


def unusable(message: str, subject: str) -> FailedPrecondition:
    """The error for a credential that cannot be shown to anyone."""
    return FailedPrecondition("CREDENTIAL_UNUSABLE", message, metadata={"subject": subject})

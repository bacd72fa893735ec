"""With what a cluster is called: a bearer token from a file that rotates, or one that does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubevend_server.errors import FailedPrecondition


class BearerToken(Protocol):
    """A source of the bearer token to call with."""

    def read(self) -> str:
        """The token as it is now.

        Raises:
            FailedPrecondition: there is none.
        """


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token that does not change."""

    _token: str

    def __repr__(self) -> str:
        return "StaticToken(...)"

    def read(self) -> str:
        """The token."""
        return self._token


class TokenFile:
    """A token in a file that something else keeps fresh, as the kubelet does.

    The file is read again whenever it is another one (its inode, size or time of change), so a rotated token is
    used from the next call on. The kubelet rotates by swapping a symbolic link, which changes the inode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._token = ""

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def read(self) -> str:
        """The token as the file has it now.

        Raises:
            FailedPrecondition: the file cannot be read, or is empty.
        """
        try:
            found = self._path.stat()
            version = (found.st_ino, found.st_size, found.st_mtime_ns)
            if version != self._version:
                self._token = self._path.read_text().strip()
                self._version = version
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise self._unusable(f"cannot be read: {why}") from error
        if not self._token:
            raise self._unusable("is empty")
        return self._token

    def _unusable(self, what: str) -> FailedPrecondition:
        return FailedPrecondition(
            "CREDENTIAL_UNUSABLE",
            f"The token file {self._path} {what}. Put a Kubernetes token into it, or give the config "
            "another credential.",
            metadata={"token_file": str(self._path), "subject": str(self._path)},
        )

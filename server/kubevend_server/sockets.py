"""Unix sockets that only one proxy can reach.

Whoever can connect to one may name any workload of its trust domains. Who can is decided by the folder and by the mode
of the socket.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

LONGEST_PATH = 107
"""In bytes: `sun_path` of Linux, without the zero at its end (unix(7))."""

_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """Where a proxy on this machine connects.

    Attributes:
        path: of the socket.
        mode: its permissions, as 0o600.
    """

    path: Path
    mode: int

    def __str__(self) -> str:
        return str(self.path)

    @property
    def uri(self) -> str:
        """As gRPC wants it."""
        return f"unix:{quote(str(self.path))}"

    @contextmanager
    def made_safely(self) -> Iterator[None]:
        """Bind the socket in here. Before, make way for it; after, give it its mode.

        Until then nobody but its owner can connect.

        Raises:
            ValueError: somebody else serves it, or it cannot be made safely; the message says what to do.
        """
        _check_folder(self.path.parent, self.mode)
        _make_way(self.path)
        before = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(before)
        self.path.chmod(self.mode)


def _check_folder(folder: Path, mode: int) -> None:
    """Make the folder where there is none, for those who may use the socket; else look who may write there."""
    if not folder.exists():
        folder.mkdir(mode=0o750 if mode & 0o070 else 0o700)
        return
    found = folder.stat()
    if found.st_mode & stat.S_IWOTH:
        raise ValueError(
            f"The folder {folder} can be written by everybody, who could put a socket of their own there: "
            f"`chmod o-w {folder}`, or name a folder that is not there, which kubevend then makes."
        )
    # Where the group may connect, as in a volume of Kubernetes with an fsGroup, it is the proxy's.
    if not mode & 0o070 and found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()):
        raise ValueError(
            f"The folder {folder} can be written by group {found.st_gid}, any of whom could put a socket of their own "
            f"there: `chmod g-w {folder}`."
        )
    if found.st_uid not in (0, os.geteuid()):
        raise ValueError(
            f"The folder {folder} belongs to user {found.st_uid}, who could put another socket there: it must belong "
            f"to the user of kubevend ({os.geteuid()}) or to root."
        )


def _make_way(path: Path) -> None:
    """Remove the socket of a server that is dead."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ValueError(f"{path} is there and is no socket: remove it, or name another path.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ValueError(
                f"Whether anybody serves {path} cannot be found out ({error.strerror or error}): remove it if it is "
                "left over."
            ) from error
    raise ValueError(f"Somebody serves {path} already: stop that server, or name another path.")

"""Files that something else keeps fresh: read again whenever they are another version."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

_MOST_BYTES = 1 << 18

Guard = Callable[[str], str]
"""Says why the file at a real path may not be read; empty where it may."""


class ForbiddenFileError(OSError):
    """The file is, or has become, one that may not be read."""


def _anything(_: str) -> str:
    return ""


class WatchedFile:
    """A file that is read again whenever it is another one (its inode, size or time of change).

    The kubelet rotates what it mounts by swapping a symbolic link, which changes the inode. Whoever may write in a
    folder could let a link in it lead anywhere, so the guard is asked about the very file that is read.
    """

    def __init__(self, path: Path, guard: Guard = _anything) -> None:
        """Take the path, and what says whether the file that it leads to may be read."""
        self.path = path
        self._guard = guard
        self._version: tuple[int, int, int, int] | None = None
        self._content = ""

    def __repr__(self) -> str:
        return f"WatchedFile({str(self.path)!r})"

    def read(self) -> str:
        """The content as it is now.

        Raises:
            OSError: the file cannot be read: it is not there, no regular file, larger than 256 KiB, or forbidden.
            UnicodeDecodeError: it is not text.
        """
        if _version(self.path.stat()) != self._version:
            # Without waiting: a pipe would never be ready.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                self._check(found, _real_path(descriptor, self.path))
                self._content = file.read(_MOST_BYTES).decode()
            self._version = _version(found)
        return self._content

    def _check(self, found: os.stat_result, real_path: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {_MOST_BYTES} bytes")
        fault = self._guard(real_path)
        if fault:
            raise ForbiddenFileError(errno.EACCES, fault)


def _version(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _real_path(descriptor: int, path: Path) -> str:
    """The path of an open file, where the system tells; else where the path leads now."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return os.path.realpath(path)


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Say why a file cannot be read, for the middle of a sentence."""
    return str(error.strerror) if isinstance(error, OSError) else "it is not text"

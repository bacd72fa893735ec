"""Files that something else keeps fresh: read again whenever they are another version."""

from __future__ import annotations

from pathlib import Path


class WatchedFile:
    """A file that is read again whenever it is another one (its inode, size or time of change).

    The kubelet rotates what it mounts by swapping a symbolic link, which changes the inode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version: tuple[int, int, int] | None = None
        self._content = ""

    def __repr__(self) -> str:
        return f"WatchedFile({str(self.path)!r})"

    def read(self) -> str:
        """The content as it is now.

        Raises:
            OSError: the file cannot be read.
            UnicodeDecodeError: it is not text.
        """
        found = self.path.stat()
        version = (found.st_ino, found.st_size, found.st_mtime_ns)
        if version != self._version:
            self._content = self.path.read_text()
            self._version = version
        return self._content


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Say why a file cannot be read, for the middle of a sentence."""
    return str(error.strerror) if isinstance(error, OSError) else "it is not text"

"""Files that others replace while this process runs: tokens, certificates, keys."""

from __future__ import annotations

from pathlib import Path

from kubevend.errors import ClientError

Stamp = tuple[int, int, int, int]


class WatchedFile:
    """A file that is read again when it was replaced or rewritten, which a `stat` at each use tells.

    A mounted Secret or projected token is replaced by a link that the kubelet swaps; a stat follows it.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Take the file, and what to call it in errors: `token_file (KUBEVEND_TOKEN_FILE)`."""
        self._path = path
        self._name = name
        self._stamp: Stamp | None = None
        self._content = b""

    def read(self) -> bytes:
        """The content as it is now; while the file is missing or empty, as in mid-replacement, as it was last.

        Raises:
            ClientError: it was never there, cannot be read, or is empty (FILE_UNREADABLE).
        """
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._take(stamp)
        except OSError as problem:
            if not self._content:
                raise ClientError(
                    f"{self._name}: {self._path} cannot be read: {problem.strerror or problem}. "
                    "Name a file that is there, and that this process may read.",
                    reason="FILE_UNREADABLE",
                ) from problem
        if not self._content:
            raise ClientError(f"{self._name}: {self._path} is empty.", reason="FILE_UNREADABLE")
        return self._content

    def _look(self) -> Stamp:
        found = self._path.stat()
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _take(self, stamp: Stamp) -> None:
        content = self._path.read_bytes()
        if content.strip():
            # The stamp from before the reading: what is written meanwhile is then read next time.
            self._content, self._stamp = content, stamp

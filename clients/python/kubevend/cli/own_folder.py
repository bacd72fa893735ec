"""A folder that is its owner's alone, for what nobody else may read or put there. Loads next to nothing."""

from __future__ import annotations

import fcntl
import os
import stat
import time

_MOST_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderError(Exception):
    """The folder cannot be trusted or used; the message says what to do."""


class OwnFolder:
    """The folder, held open: what is at its path may be swapped later, and the files go where they went before."""

    def __init__(self, path: str, *, make: bool = True) -> None:
        """Open it, and make it where it is not there.

        Raises:
            FolderError: it cannot be made or opened, is a link, is another user's, or is open to others.
        """
        self.path = path
        try:
            if make:
                os.makedirs(path, mode=0o700, exist_ok=True)
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise FolderError(f"{path} cannot be used to keep credentials: {error.strerror}.") from error
        found = os.fstat(self._handle)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            mode, owner = stat.S_IMODE(found.st_mode), found.st_uid
            os.close(self._handle)
            raise FolderError(
                f"{path} is not yours alone (mode {mode:04o}, owner {owner}), so no credential is kept there: look who "
                f"made it, and remove it, or make it yours (chmod 700 {path})."
            )

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)

    def __enter__(self) -> OwnFolder:  # noqa: PYI034 - typing, which has Self, takes longer to load than all of this
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, name: str) -> str | None:
        """The text of a file; None where there is none, or none that only its owner can have written and read."""
        try:
            handle = os.open(name, _READ, dir_fd=self._handle)
        except OSError:
            return None
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
            return file.read(_MOST_BYTES).decode(errors="replace") if own else None

    def write(self, name: str, text: str) -> None:
        """Put a file there, whole or not at all.

        Raises:
            OSError: the disk is full, or its like.
        """
        new = f"{name}.{os.urandom(4).hex()}.new"
        handle = os.open(new, _NEW, 0o600, dir_fd=self._handle)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
            os.replace(new, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except BaseException:
            os.unlink(new, dir_fd=self._handle)
            raise

    def try_lock(self, name: str) -> Lock | None:
        """Take a lock, which ends with its process at the latest; None where another has it."""
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        return Lock(handle)

    def names(self, suffix: str) -> list[str]:
        """The files whose names end so."""
        return sorted(name for name in os.listdir(self._handle) if name.endswith(suffix))

    def age(self, name: str) -> float:
        """How long ago a file was written, in seconds; 0 where it is gone."""
        try:
            return time.time() - os.stat(name, dir_fd=self._handle, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return 0

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            os.unlink(name, dir_fd=self._handle)
        except FileNotFoundError:
            return


class Lock:
    """A lock that is held, until it is left."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def credentials_path() -> str:
    """Where credentials are kept: `$XDG_CACHE_HOME/kubevend/credentials`, or `~/.cache/…`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not home.startswith("/"):  # one that is not absolute counts as none, says the XDG Base Directory Specification
        home = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "kubevend", "credentials")

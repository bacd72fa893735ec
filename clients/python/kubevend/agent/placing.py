"""Files that are replaced whole or not at all, whatever happens meanwhile.

The new content is written beside the file, synced, and renamed onto it (rename(2)): who opens the file finds the old
content or the new one. While it is written it is its writer's alone, and locked, so that nobody takes it for a
left-over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class PlacingError(Exception):
    """A file cannot be put where it belongs; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file goes, and what it is to be.

    Attributes:
        file: its path.
        mode: its mode.
        owner: its owner, a number; None for whoever writes it.
        group: its group, a number; None for what the folder makes it.
    """

    file: Path
    mode: int = 0o600
    owner: int | None = None
    group: int | None = None


class Placed:
    """A new content, written and synced beside its file: nobody sees it before `commit`, or ever after `discard`."""

    def __init__(self, target: Target, content: bytes) -> None:
        """Write it.

        Raises:
            PlacingError: the folder or what is there cannot be trusted, or writing failed.
        """
        self._target = target
        self._folder = _open_folder(target.file)
        self._name = f".{target.file.name}.{os.urandom(4).hex()}.kubevend-new"
        try:
            _check_replaceable(self._folder, target.file)
            self._handle = os.open(self._name, _NEW, 0o600, dir_fd=self._folder)
        except OSError as error:
            os.close(self._folder)
            raise _failed(target.file, error) from error
        except BaseException:
            os.close(self._folder)
            raise
        try:
            self._write(content)
        except OSError as error:
            self.discard()
            raise _failed(target.file, error) from error

    def commit(self) -> None:
        """Put it in the file's place.

        Raises:
            PlacingError: that failed.
        """
        try:
            os.rename(self._name, self._target.file.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            self.discard()
            raise _failed(self._target.file, error) from error
        self._close()

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)
        self._close()

    def _write(self, content: bytes) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        left = memoryview(content)
        while left:
            left = left[os.write(self._handle, left) :]
        wanted = (self._target.owner, self._target.group)
        if wanted != (None, None):
            os.fchown(self._handle, *(-1 if number is None else number for number in wanted))
        os.fchmod(self._handle, self._target.mode)  # after the owner, since chown(2) may change the mode
        os.fsync(self._handle)

    def _close(self) -> None:
        os.close(self._handle)
        os.close(self._folder)


def commit_all(files: Sequence[Placed]) -> None:
    """Put contents in their files' places, one after another; where one cannot be, those after it are discarded.

    Raises:
        PlacingError: so it is. The files before it have been replaced.
    """
    for place, file in enumerate(files):
        try:
            file.commit()
        except PlacingError:
            for later in files[place + 1 :]:
                later.discard()
            raise


def holds(target: Target, content: bytes) -> bool:
    """Whether a file is already what it is to be."""
    try:
        with _opened(str(target.file)) as handle:
            found = os.fstat(handle)
            same = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == target.mode
            # A file of another user's can be what is wanted now and something else later.
            same = same and found.st_uid == (os.geteuid() if target.owner is None else target.owner)
            same = same and found.st_nlink == 1 and target.group in (None, found.st_gid)
            same = same and found.st_size == len(content)
            return same and os.read(handle, len(content) + 1) == content
    except OSError:
        return False


def remove(file: Path) -> bool:
    """Remove a file; whether it was there.

    Raises:
        PlacingError: it cannot be removed.
    """
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failed(file, error) from error
    return True


def clear_leftovers(file: Path) -> int:
    """Remove what a writer of this file left that was killed while it wrote; how many there were.

    Raises:
        PlacingError: the folder cannot be trusted.
    """
    folder = _open_folder(file)
    try:
        names = os.listdir(folder)  # noqa: PTH208 - of the folder that was checked, whatever is at its path by now
        own = re.compile(rf"\.{re.escape(file.name)}\.[0-9a-f]{{8}}\.kubevend-new")
        return sum(_clear(folder, name) for name in names if own.fullmatch(name))
    finally:
        os.close(folder)


def _clear(folder: int, name: str) -> bool:
    """Remove a left-over, unless somebody holds its lock, who is writing it now."""
    with contextlib.suppress(OSError), _opened(name, folder) as handle:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
            return True
    return False


@contextlib.contextmanager
def _opened(name: str, folder: int | None = None) -> Iterator[int]:
    handle = os.open(name, _READ, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def _open_folder(file: Path) -> int:
    """Open a file's folder, which is made where it is not there, for its user to change and others to look into.

    Raises:
        PlacingError: others may replace what is in it, or it cannot be used.
    """
    folder = file.parent
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle = os.open(folder, _FOLDER)
    except OSError as error:
        raise _failed(file, error) from error
    found = os.fstat(handle)
    if fault := _fault_of(found):
        os.close(handle)
        raise PlacingError(
            f"{file} is not written: {folder} {fault}, who could put another file in its place. Take that right away "
            f"(chmod go-w {folder}); where nobody else writes there, as in a pod's volume that the others mount read "
            f"only, name a folder of its own, as {folder}/kubevend/{file.name}, which the agent makes."
        )
    return handle


def _fault_of(folder: os.stat_result) -> str:
    """Why others could replace files in a folder, if they could. The sticky bit keeps them from that."""
    if folder.st_uid not in (0, os.geteuid()):
        return f"is another user's ({folder.st_uid})"
    if folder.st_mode & stat.S_ISVTX:
        return ""
    if folder.st_mode & stat.S_IWOTH:
        return "may be written by anyone"
    # A user's own group, with nobody else in it, is the group that many systems give a user's folders.
    if folder.st_mode & stat.S_IWGRP and folder.st_gid != os.getegid():
        return f"may be written by group {folder.st_gid}"
    return ""


def _check_replaceable(folder: int, file: Path) -> None:
    """Refuse to replace what is no file: a link may lead anywhere, and is its maker's.

    Raises:
        PlacingError: so it is.
    """
    try:
        found = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise PlacingError(f"{file} is {kind}, and is not replaced: remove it, or name what it leads to.")


def _failed(file: Path, error: OSError) -> PlacingError:
    return PlacingError(f"{file} is not written: {error.strerror or error}.")

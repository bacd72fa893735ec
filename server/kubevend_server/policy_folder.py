"""The policy folder: read as a whole, and read again while the server runs. What cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import structlog

from kubevend_server.clock import Clock
from kubevend_server.policy.parsing import PolicyError
from kubevend_server.policy.policies import GROUPS_FILE, Policies, PolicyFiles, load

_LOOK_SECONDS = 1.0
_MOST_READS = 3
_MOST_BYTES = 4 << 20
"""Of one file; a whole ConfigMap has no more than 1 MiB."""

Version = tuple[tuple[str, str, int, int, int, int, int], ...] | str
"""Tells whether the files of a folder are others than before: of each its name, where it really is, its device, inode,
size, and the times when what is in it and when anything about it was changed (anybody may set the first one back, and
who may read it is told by the second one alone); or why they cannot be told."""

_log = structlog.get_logger()


def read_folder(folder: Path) -> PolicyFiles:
    """Read the policy files of a folder, all of one version.

    Its `*.cedar` files and groups.toml count, links too; what begins with a dot does not, nor do folders in it: the
    kubelet keeps the versions of a ConfigMap in hidden ones.

    Raises:
        OSError: a file cannot be read, or the files change all the time.
        PolicyError: a file is not text.
    """
    return _read(folder)[0]


def folder_version(folder: Path) -> Version:
    """Which version of the policy files is in a folder, told without reading them."""
    try:
        return tuple(_version(path) for path in paths(folder))
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"


def load_folder(folder: Path) -> tuple[Policies, Version]:
    """Read and check a folder's policies, at the start.

    Returns:
        They, and which version of the folder.

    Raises:
        OSError, PolicyError: they cannot be used; the message says why.
    """
    if not folder.is_dir():
        raise NotADirectoryError(
            f"policy.folder of the settings is {folder}: there is no such folder. Correct it, or make it."
        )
    files, version = _read(folder)
    try:
        policies = load(files)
    except PolicyError as error:
        raise PolicyError(f"The policies in {folder} cannot be used: {error}") from error
    if not policies:
        _log.warning("no_policies", folder=str(folder), hint="nobody may do anything, the bootstrap admin included")
    return policies, version


class PolicySource:
    """The policies in force, for whoever decides; and how they came about.

    Attributes:
        current: they. Taken anew for each decision.
        loaded_time: since when they are in force.
        fault: why what is in the folder now is not in force; empty where it is.
        failures: how many versions of the folder could not be used.
    """

    def __init__(self, policies: Policies, loaded_time: datetime) -> None:
        """Take the first ones."""
        self.current = policies
        self.loaded_time = loaded_time
        self.fault = ""
        self.failures = 0

    def take(self, policies: Policies, now: datetime) -> None:
        """Put others in force, for every decision from here on."""
        self.current, self.loaded_time, self.fault = policies, now, ""

    def refuse(self, fault: str) -> None:
        """Note that what is in the folder cannot be used; what is in force stays."""
        self.fault = fault
        self.failures += 1


class PolicyReload:
    """Looks at the policy folder, and puts in force what is new in it."""

    def __init__(
        self,
        folder: Path,
        source: PolicySource,
        version: Version,
        clock: Clock,
        tell_health: Callable[[bool], Awaitable[None]],
    ) -> None:
        """Take where to look.

        Args:
            folder: the policy folder.
            source: whose policies are put in place.
            version: the version of the folder that is in force.
            clock: the time of day.
            tell_health: told whether what is in the folder is in force.
        """
        self._folder = folder
        self._source = source
        self._handled = version
        self._pending: Version | None = None
        self._clock = clock
        self._tell_health = tell_health

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take what is in the folder, if it is another version, and the same one as at the last look.

        So a file that is being written, or one of several that are, is not taken for the whole.
        """
        version = await asyncio.to_thread(folder_version, self._folder)
        if version == self._handled:
            self._pending = None
        elif version != self._pending:
            self._pending = version
        else:
            await self._take(version)

    async def _take(self, version: Version) -> None:
        try:
            files, found = await asyncio.to_thread(_read, self._folder)
            if found != version:
                return  # it has changed meanwhile, and the next look sees that
            policies = await asyncio.to_thread(load, files)
            self._check_not_emptied(policies)
        except (OSError, PolicyError) as error:
            self._refuse(str(error))
        except Exception as defect:  # noqa: BLE001 - else nothing that comes later would ever be taken, without a word
            self._refuse(f"kubevend has a defect, by which it cannot read them ({type(defect).__name__}): {defect}")
        else:
            self._put_in_force(policies)
        self._handled, self._pending = version, None
        await self._tell_health(not self._source.fault)

    def _check_not_emptied(self, policies: Policies) -> None:
        # A volume that has vanished looks like that.
        if not policies and self._source.current:
            raise PolicyError("there is no policy left in it; if that is meant, start the server again")

    def _put_in_force(self, policies: Policies) -> None:
        self._source.take(policies, self._clock())
        _log.info("policies_loaded", folder=str(self._folder), **described(policies))

    def _refuse(self, fault: str) -> None:
        self._source.refuse(fault)
        _log.error(
            "policies_unusable",
            folder=str(self._folder),
            error=fault,
            hint="the policies that were in force stay so, until what is in the folder can be used",
            in_force=self._source.current.sha256,
        )


def described(policies: Policies) -> dict[str, object]:
    """What the log tells of policies."""
    return {"policies": len(policies), "groups": len(policies.groups.names), "sha256": policies.sha256}


def _read(folder: Path) -> tuple[PolicyFiles, Version]:
    for _ in range(_MOST_READS):
        before = folder_version(folder)
        texts = {path.name: _text(path) for path in paths(folder)}
        if folder_version(folder) == before:
            groups = texts.pop(GROUPS_FILE, None)
            return PolicyFiles(texts, groups), before
    raise OSError(errno.EAGAIN, "its files change while they are read", str(folder))


def paths(folder: Path) -> list[Path]:
    """The files of a folder that count, sorted by their names.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    counted = (path for path in folder.iterdir() if path.suffix == ".cedar" or path.name == GROUPS_FILE)
    return sorted(path for path in counted if not path.name.startswith("."))


def content(path: Path) -> bytes:
    """What is in a file of a policy folder.

    Raises:
        OSError: it cannot be read, is no regular file, or larger than 4 MiB.
    """
    # Without waiting: a pipe would never be ready, nor the thread that reads it ever be free again.
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        read = file.read(_MOST_BYTES + 1)
    if len(read) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {_MOST_BYTES >> 20} MiB", str(path))
    return read


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _text(path: Path) -> str:
    try:
        return content(path).decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path.name}: it is not text in UTF-8") from error


def _version(path: Path) -> tuple[str, str, int, int, int, int, int]:
    found = path.stat()
    where = path.name, str(path.resolve()), found.st_dev, found.st_ino
    return *where, found.st_size, found.st_mtime_ns, found.st_ctime_ns

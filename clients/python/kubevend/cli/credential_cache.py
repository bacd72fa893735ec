"""kubectl's credentials, kept in files between its calls. This module imports nothing that takes long to load.

Each credential has a file of its own, named by a digest of all that it depends on: what was asked for, where, and by
whom. The folder and the files are their owner's alone; whoever finds no credential that is good takes the file's
lock, so that of many kubectl at once one asks kubevend, and the others find what it got.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VERSION = 1
_RENEW_AFTER = 0.8
"""Of its life; before that a credential is used without asking."""
_MARGIN_SECONDS = 10
"""So long before its end nobody is given it any more."""
_KEPT_SECONDS = 86400
"""After its end the file of a credential is removed by whoever comes by."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, and between which moments (seconds since the epoch) it is good."""

    token: str
    begins: float
    ends: float

    def __repr__(self) -> str:
        return f"Credential(ends={self.ends})"

    def is_usable(self, now: float) -> bool:
        """Whether it may still be handed out."""
        return now < self.ends - _MARGIN_SECONDS

    def is_fresh(self, now: float) -> bool:
        """Whether no other need be asked for yet."""
        return self.is_usable(now) and now < self.begins + _RENEW_AFTER * (self.ends - self.begins)

    def as_exec_credential(self, api_version: str) -> str:
        """What kubectl is to be told."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.ends - _MARGIN_SECONDS))
        status = {"token": self.token, "expirationTimestamp": until}
        return json.dumps({"apiVersion": api_version, "kind": "ExecCredential", "status": status})


class CacheError(Exception):
    """The folder of the cache cannot be trusted; the message says what to do."""


class Cache:
    """Credentials in files of one folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is made where it is not there.

        Raises:
            CacheError: it is another user's, or others may look into it.
        """
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise CacheError(
                f"{folder} cannot be used to keep credentials: {error}. Set XDG_CACHE_HOME, or use --no-cache."
            ) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise CacheError(
                f"{folder} is not a folder of yours alone, so no credential is kept there: make it one "
                f"(chmod 700 {folder}), or use --no-cache."
            )

    def get(self, key: str, issue: Callable[[], Credential]) -> Credential:
        """The credential of a key: the one that is kept, or a new one; of several who come at once, one issues it.

        Where a new one cannot be had, the one that is kept is good until its end.
        """
        kept = self._read(key)
        if kept is not None and kept.is_fresh(time.time()):
            return kept
        with self._locked(key):
            kept = self._read(key)
            if kept is not None and kept.is_fresh(time.time()):
                return kept
            try:
                issued = issue()
            except Exception:
                if kept is not None and kept.is_usable(time.time()):
                    return kept
                raise
            self._write(key, issued)
            self._tidy()
            return issued

    def _read(self, key: str) -> Credential | None:
        try:
            handle = os.open(self._folder / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(handle) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return None
            try:
                content = json.load(file)
                return Credential(str(content["token"]), float(content["begins"]), float(content["ends"]))
            except (ValueError, KeyError, TypeError):
                return None  # half a file, or somebody else's: it is made anew

    def _write(self, key: str, credential: Credential) -> None:
        new = self._folder / f"{key}.{os.getpid()}"
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            content = {"token": credential.token, "begins": credential.begins, "ends": credential.ends}
            json.dump(content, file)
        new.replace(self._folder / key)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        # The lock's file stays: if it were removed, two could hold locks on two files of one name.
        handle = os.open(self._folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _tidy(self) -> None:
        """Remove what has ended long ago, and what was left half written."""
        before = time.time() - _KEPT_SECONDS
        for file in self._folder.iterdir():
            if file.suffix == ".lock":
                continue
            try:
                if file.stat().st_mtime < before and not self._is_usable(file.name):
                    file.unlink()
            except FileNotFoundError:
                continue  # somebody else was faster

    def _is_usable(self, key: str) -> bool:
        kept = self._read(key)
        return kept is not None and kept.is_usable(time.time())


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where credentials are kept: `$XDG_CACHE_HOME/kubevend/credentials`, or `~/.cache/…`."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(home) / "kubevend" / "credentials"


def key_of(asked: Mapping[str, Any], settings: Any) -> str:
    """The key of a credential: a digest of all that it depends on.

    Args:
        asked: what was asked for.
        settings: where and by whom, a `kubevend.connection.Settings`.
    """
    who = {
        "address": settings.address,
        "ca": _digest(settings.ca_file),
        "token": _subject(settings.token_file),
        "certificate": _digest(settings.client_cert_file),
        "files": [str(file) for file in (settings.token_file, settings.client_cert_file) if file is not None],
        "user": os.geteuid(),
    }
    return _sha256([_VERSION, asked, who])


def _sha256(what: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _digest(file: Path | None) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else ""
    except OSError:
        return "unreadable"


def _subject(file: Path | None) -> str:
    """Whose token is in a file, as the token itself says, so that a rotated one is the same; else its digest."""
    if file is None:
        return ""
    try:
        parts = file.read_text().strip().split(".")
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return _sha256([claims["iss"], claims["sub"]])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return _digest(file)

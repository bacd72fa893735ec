"""kubectl's credentials, kept in files between its calls.

Each has a file of its own, named by a digest of all that it depends on. Whoever finds none that is fresh takes the
lock, so that of many kubectl at once one asks kubevend, and the others find what it got, or why it got none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from kubevend.cli.identity import identity
from kubevend.cli.kept import Kept
from kubevend.cli.own_folder import OwnFolder
from kubevend.connection import Settings
from kubevend.errors import KubevendError

_VERSION = 2
_WAIT_SECONDS = 45.0
"""More than an issuance can take, with its retries."""
_LOOK_SECONDS = 0.03
_AGAIN_SECONDS = 30.0
"""After a renewal that failed, so long what is kept is used without another try."""
_NOTES_SECONDS = 7 * 86400.0


class CacheBusyError(Exception):
    """Another process has asked for the same credential and does not come to an end."""


class Cache:
    """Credentials in the files of a folder."""

    def __init__(self, folder: OwnFolder, warn: Callable[[str], None]) -> None:
        """Take the folder, and who is told of what went wrong and did not matter."""
        self._folder = folder
        self._warn = warn

    def get(self, key: str, issue: Callable[[bool], Kept]) -> Kept:
        """The credential of a key: the one that is kept, or a new one; of several who come at once, one issues it.

        Where a new one cannot be had, the one that is kept is used until its end.

        Args:
            key: of `key_of`.
            issue: has one issued; it is told whether there is one to fall back on.

        Raises:
            KubevendError: there is none, and none was issued; the same for all who waited.
            CacheBusyError: another process holds the lock all the time.
        """
        began = time.time()
        while True:
            kept = self._read(key)
            if kept is not None and kept.is_fresh(time.time()):
                return kept
            lock = self._folder.try_lock(f"{key[:2]}.lock")  # few files, which can stay: to remove one would split it
            if lock is not None:
                with lock:
                    return self._have(key, began, issue)
            if kept is not None and kept.is_usable(time.time()):
                return kept
            if time.time() > began + _WAIT_SECONDS:
                raise CacheBusyError(
                    f"Another kubevend has held {self._folder.path}/{key[:2]}.lock for {_WAIT_SECONDS:.0f} s: end it, "
                    "or use --no-cache."
                )
            time.sleep(_LOOK_SECONDS)

    def write_note(self, name: str, text: str) -> None:
        """Keep the note of a call, by which `warm` finds its credential."""
        self._try_to_write(name, text)

    def clear(self) -> int:
        """Remove all credentials, and what leads to them; returns how many there were."""
        found = self._folder.names(".credential")
        for name in [*found, *self._others()]:
            self._folder.remove(name)
        return len(found)

    def _have(self, key: str, began: float, issue: Callable[[bool], Kept]) -> Kept:
        kept, now = self._read(key), time.time()
        if kept is not None and kept.is_fresh(now):
            return kept
        usable = kept if kept is not None and kept.is_usable(now) else None
        if usable is None:
            self._raise_failure_since(began, key)
        try:
            issued = issue(usable is not None)
        except KubevendError as error:
            if usable is None:
                self._try_to_write(f"{key}.failure", json.dumps(_failure(error)))
                raise
            self._warn(f"{error}: using the credential that is kept.")
            return self._put_off(key, usable)
        self._try_to_write(f"{key}.credential", issued.to_text())
        self._tidy()
        return issued

    def _put_off(self, key: str, kept: Kept) -> Kept:
        later = Kept(kept.answer, kept.begins, time.time() + _AGAIN_SECONDS, kept.usable_until)
        self._try_to_write(f"{key}.credential", later.to_text())
        return later

    def _read(self, key: str) -> Kept | None:
        return Kept.of_text(self._folder.read(f"{key}.credential"))

    def _raise_failure_since(self, began: float, key: str) -> None:
        """Whoever waited while another one failed fails in the same way: it need not be tried fifty times."""
        try:
            told = json.loads(self._folder.read(f"{key}.failure") or "{}")
        except ValueError:
            return
        if told.pop("time", 0) > began:
            raise KubevendError(**told)

    def _try_to_write(self, name: str, text: str) -> None:
        try:
            self._folder.write(name, text)
        except OSError as error:
            self._warn(f"{self._folder.path} cannot be written, so nothing is kept: {error.strerror}.")

    def _tidy(self) -> None:
        """Remove credentials that have ended, and notes that are old."""
        for name in self._folder.names(".credential"):
            kept = Kept.of_text(self._folder.read(name))
            if kept is None or not kept.is_usable(time.time()):
                self._folder.remove(name)
        for name in self._others():
            if self._folder.age(name) > _NOTES_SECONDS:
                self._folder.remove(name)

    def _others(self) -> list[str]:
        return [name for suffix in (".call", ".failure", ".new") for name in self._folder.names(suffix)]


def _failure(error: KubevendError) -> dict[str, Any]:
    return {
        "time": time.time(),
        "message": error.message,
        "code": error.code,
        "reason": error.reason,
        "request_id": error.request_id,
    }


def key_of(asked: dict[str, Any], settings: Settings) -> str:
    """The key of a credential: a digest of all that it depends on.

    Args:
        asked: what was asked for, as JSON can have it.
        settings: where and by whom.

    Raises:
        ClientError: a file cannot be read (FILE_UNREADABLE).
    """
    everything = [_VERSION, asked, settings.address, settings.insecure, identity(settings)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

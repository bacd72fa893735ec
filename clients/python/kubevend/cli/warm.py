"""The short way of `kubevend credential` to a credential that is kept.

kubectl waits for it at every call, and to load click, let alone gRPC, takes longer than all else. So the long way
leaves a note of what it did: called with these arguments, in this environment and this folder, it read these files,
and came to this credential. While the files are the same ones and the credential is fresh, the same call has the same
answer.
"""

from __future__ import annotations

import hashlib
import os
import time

from kubevend.cli.kept import Kept
from kubevend.cli.own_folder import FolderError, OwnFolder, credentials_path

_VERSION = "kubevend-call/1"
_DECIDING = ("HOME", "XDG_CONFIG_HOME")
_ASKED_FOR = '"apiVersion":"client.authentication.k8s.io/v1"'
"""As client-go writes it into KUBERNETES_EXEC_INFO. What is written otherwise goes the long way."""


def answer(arguments: list[str]) -> str | None:
    """What to print for the arguments of a call; None where it has to go the long way, which can say what is wrong."""
    info = os.environ.get("KUBERNETES_EXEC_INFO", "")
    if info and _ASKED_FOR not in info:
        return None
    try:
        with OwnFolder(credentials_path(), make=False) as folder:
            name = _named_in(folder.read(note_name(arguments)))
            kept = Kept.of_text(folder.read(name)) if name else None
    except (FolderError, OSError, ValueError):
        return None
    return kept.answer if kept is not None and kept.is_fresh(time.time()) else None


def note_name(arguments: list[str]) -> str:
    """The name of a call's note: all that decides which files are read and what is asked for.

    Raises:
        OSError: the current folder is gone.
    """
    found = [item for item in os.environ.items() if item[0].startswith("KUBEVEND_") or item[0] in _DECIDING]
    deciding = repr((_VERSION, arguments, sorted(found), os.getcwd()))
    return f"{hashlib.sha256(deciding.encode(errors='surrogateescape')).hexdigest()}.call"


def states(files: list[str]) -> list[str]:
    """How files are now. To be asked before they are read, so that what changes in between is not missed."""
    return [f"{_state(file)} {file}" for file in files]


def note(name: str, seen: list[str]) -> str:
    """A note's text: the file of the credential, and how the files were that it rests on."""
    return "\n".join([_VERSION, name, *seen, ""])


def _named_in(text: str | None) -> str:
    """The file of the credential that a note leads to, if all is as it was; else empty."""
    version, name, *seen = (text or "\n").split("\n")
    files = [line.partition(" ")[2] for line in seen if line]
    return name if version == _VERSION and [*states(files), ""] == seen else ""


def _state(file: str) -> str:
    try:
        found = os.stat(file)
    except OSError:
        return "-"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"

"""The TypeScript library, compiled once for all who try it."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "clients" / "typescript"


@functools.cache
def build_library() -> Path:
    """Compile it with its tests and its driver, and return the folder that they are in.

    Where Node is not installed the test is skipped; it fails where CI is set, which has it.
    """
    if missing := [program for program in ("node", "npm") if shutil.which(program) is None]:
        message = f"the TypeScript library is not tried: {', '.join(missing)} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with holding_library():
        run("make", "--no-print-directory", "typescript", folder=ROOT)
    return LIBRARY / "build"


@contextmanager
def holding_library() -> Iterator[None]:
    """Be the only one of several processes that makes something in its folder."""
    with (LIBRARY / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str, folder: Path) -> str:
    """Run a command and return what it prints.

    Raises:
        AssertionError: it failed; with what it printed.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}"
    return done.stdout

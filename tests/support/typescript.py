"""The TypeScript library, compiled once for all who try it."""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import need, run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "clients" / "typescript"
PROGRAMS = ("node", "npm")


@functools.cache
def build_library() -> Path:
    """Compile it with its tests and its driver, and return the folder that they are in.

    Where Node is not installed the test is skipped; it fails where CI is set, which has it.
    """
    need(PROGRAMS, "TypeScript")
    with holding_library():
        run("make", "--no-print-directory", "typescript", folder=ROOT)
    return LIBRARY / "build"


@contextmanager
def holding_library() -> Iterator[None]:
    """Be the only one of several processes that makes something in its folder."""
    with (LIBRARY / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

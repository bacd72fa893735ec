"""The Java library, compiled once for all who try it."""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import need, run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "clients" / "java"
PROGRAMS = ("java", "javac", "mvn")


@functools.cache
def build_library() -> Path:
    """Compile it with its driver, and return the folder that the driver is in, with all that it needs in `lib`.

    Where a JDK or Maven is not installed the test is skipped; it fails where CI is set, which has them.
    """
    need(PROGRAMS, "Java")
    with holding_library():
        run("make", "--no-print-directory", "java", folder=ROOT)
    return LIBRARY / "conformance" / "target"


@contextmanager
def holding_library() -> Iterator[None]:
    """Be the only one of several processes that makes something in its folder."""
    with (LIBRARY / "pom.xml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def maven(*arguments: str, folder: Path = LIBRARY) -> str:
    """Run Maven and return what it prints."""
    return run("mvn", "--batch-mode", "--no-transfer-progress", *arguments, folder=folder)

"""The Java library, compiled once for all who try it."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.typescript import run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "clients" / "java"


@functools.cache
def build_library() -> Path:
    """Compile it with its driver, and return the folder that the driver is in, with all that it needs in `lib`.

    Where a JDK or Maven is not installed the test is skipped; it fails where CI is set, which has them.
    """
    if missing := [program for program in ("java", "javac", "mvn") if shutil.which(program) is None]:
        message = f"the Java library is not tried: {', '.join(missing)} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
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

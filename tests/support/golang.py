"""The Go library, compiled for those who try it."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
from pathlib import Path

from devcluster.golang import MINIMUM, environment, find_go
from tests.support.programs import run

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "clients" / "go"


@functools.cache
def build_driver() -> Path:
    """Compile the driver of the conformance suite, and return where it is."""
    target = LIBRARY / ".build" / "driver"
    target.parent.mkdir(exist_ok=True)
    with target.with_name(".lock").open("w") as lock:  # not go.mod, on which go takes a lock of its own
        fcntl.flock(lock, fcntl.LOCK_EX)
        go("build", "-o", f"{target}.new", ".", folder=LIBRARY / "conformance")
        target.with_name("driver.new").replace(target)  # another process of the test run may be running it
    return target


def go(*arguments: str, folder: Path, race: bool = False) -> str:
    """Run a go command and return what it prints.

    Args:
        arguments: the command.
        folder: where.
        race: whether it may look for data races, for which Go needs cgo.

    Raises:
        AssertionError: it failed; with what it printed.
    """
    cgo = {"CGO_ENABLED": "1"} if race else {}
    return run(find_go(MINIMUM).path, *arguments, folder=folder, environment=environment() | cgo)


def can_find_races() -> bool:
    """Whether there is a C compiler, without which Go's race detector does not work."""
    return shutil.which(os.environ.get("CC", "gcc")) is not None

"""Programs that tests need and that are not this project's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def lacking(programs: tuple[str, ...], library: str) -> str:
    """What of the programs is not installed, and what is not tried for that, in words; empty where all are there."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"the {library} library is not tried: {', '.join(absent)} is not installed" if absent else ""


def need(programs: tuple[str, ...], library: str) -> None:
    """Skip the test where a program is not installed; fail it where CI is set, which has them all."""
    if lack := lacking(programs, library):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lack)


def run(*command: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it prints.

    Raises:
        AssertionError: it failed; with what it printed.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout[-20000:]}"
    return done.stdout

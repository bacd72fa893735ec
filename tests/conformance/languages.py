"""The client libraries by language, and how the driver of each is built."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import golang, java, typescript

CLIENTS = Path(__file__).parents[2] / "clients"


def missing(language: str) -> str:
    """What a language's driver needs that is not installed, in words; empty where nothing is missing."""
    absent = [program for program in _LANGUAGES[language][0] if shutil.which(program) is None]
    return f"{', '.join(absent)} is not installed, so the {language} library is not tried" if absent else ""


@functools.cache
def command(language: str) -> Sequence[str]:
    """Build a language's driver, once for each process of the test run, and tell how it is started.

    Where what the language needs is not installed the test is skipped, and fails where CI is set, which has it all.
    """
    if lack := missing(language):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lack)
    return _LANGUAGES[language][1]()


def _python() -> Sequence[str]:
    return [sys.executable, str(CLIENTS / "python" / "conformance" / "driver.py")]


def _python_aio() -> Sequence[str]:
    return [*_python(), "--aio"]


def _go() -> Sequence[str]:
    return [str(golang.build_driver())]


def _java() -> Sequence[str]:
    target = java.build_library()
    # It lives for seconds, so what takes long to start does not pay.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
    return ["java", *quick, "-cp", f"{target}/classes:{target}/lib/*", "dev.kubevend.conformance.Driver"]


def _typescript() -> Sequence[str]:
    return ["node", str(typescript.build_library() / "conformance" / "driver.js")]


_Build = tuple[Sequence[str], Callable[[], Sequence[str]]]

_LANGUAGES: Mapping[str, _Build] = {
    "python": ((), _python),
    "python-aio": ((), _python_aio),
    "go": ((), _go),
    "typescript": (("node", "npm"), _typescript),
    "java": (("java", "javac", "mvn"), _java),
}
LANGUAGES = tuple(_LANGUAGES)

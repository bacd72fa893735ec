"""The client libraries by language, and how the driver of each is built."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import golang, java, typescript
from tests.support.programs import lacking, need

CLIENTS = Path(__file__).parents[2] / "clients"


def missing(language: str) -> str:
    """What a language's driver needs that is not installed, in words; empty where nothing is missing."""
    return lacking(_LANGUAGES[language][0], language)


@functools.cache
def command(language: str) -> Sequence[str]:
    """Build a language's driver, once for each process of the test run, and tell how it is started.

    Where what the language needs is not installed the test is skipped, and fails where CI is set, which has it all.
    """
    programs, build = _LANGUAGES[language]
    need(programs, language)
    return build()


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


_Build = tuple[tuple[str, ...], Callable[[], Sequence[str]]]

_LANGUAGES: Mapping[str, _Build] = {
    "python": ((), _python),
    "python-aio": ((), _python_aio),
    "go": ((), _go),
    "typescript": (typescript.PROGRAMS, _typescript),
    "java": (java.PROGRAMS, _java),
}
LANGUAGES = tuple(_LANGUAGES)

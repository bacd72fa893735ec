"""Compile Go commands of this repository into the user's cache, once for each state of their sources."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from devcluster.golang import Go, GoError, Version, environment, find_go

PROGRESS_SECONDS = 15
KEPT_BUILDS = 2
TAIL_LINES = 20


def build(module_dir: Path, package: str, name: str, *, ldflags: str = "", takes: str = "a minute") -> Path:
    """Compile a main package, unless the cache has it, and return the path of the binary.

    What is going on is told on stderr; nothing is printed when the cache has the binary.

    Args:
        module_dir: The folder of the go.mod; its go.sum has to be complete.
        package: What to compile, as in "." or an import path that the go.mod requires.
        name: The name of the binary.
        ldflags: For `go build -ldflags`.
        takes: How long it takes with nothing compiled yet, for the person who waits.

    Raises:
        GoError: No Go, or it did not compile; with the compiler's last lines.
    """
    go = find_go(_required_version(module_dir))
    cache = _cache_folder()
    binary = cache / f"{name}-{_fingerprint(module_dir, package, ldflags, go)}" / name
    if not binary.exists():
        with _locked(cache / f"{name}.lock", name):
            if not binary.exists():
                print(
                    f"Compiling {name} with Go (the first time takes about {takes})",
                    file=sys.stderr,
                    flush=True,
                )
                _compile(go, module_dir, package, ldflags, binary)
    os.utime(binary.parent)
    _prune(cache, name)
    return binary


def _required_version(module_dir: Path) -> Version:
    """Return the version that the go.mod's `go` line asks for."""
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", (module_dir / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise GoError(f"{module_dir / 'go.mod'} has no `go` line")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubevend"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(module_dir: Path, package: str, ldflags: str, go: Go) -> str:
    """Return 16 hex digits that change with anything that the binary is made from."""
    digest = hashlib.sha256(repr((package, ldflags, go.version, go.platform)).encode())
    for source in _sources(module_dir):
        digest.update(f"{source.relative_to(module_dir)}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sources(module_dir: Path) -> list[Path]:
    """List go.mod, go.sum and the Go files of one module, leaving out modules nested in it."""
    nested = [inner.parent for inner in module_dir.glob("*/**/go.mod")]
    files = [path for path in module_dir.rglob("*.go") if not any(path.is_relative_to(inner) for inner in nested)]
    return sorted([module_dir / "go.mod", module_dir / "go.sum", *files])


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold a file lock, which the kernel takes back from a builder that died."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(f"Waiting for another process that compiles {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(go: Go, module_dir: Path, package: str, ldflags: str, binary: Path) -> None:
    """Compile to a temporary name, then rename: whoever sees the binary sees all of it."""
    binary.parent.mkdir(exist_ok=True)
    partial = binary.with_suffix(".partial")
    log = binary.with_suffix(".log")
    command = [str(go.path), "build", "-v", "-ldflags", ldflags, "-o", str(partial), package]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=module_dir, env=environment(), stdout=output, stderr=output)
    try:
        _wait(process, log)
    finally:
        process.terminate()  # it still runs only if the wait was interrupted
        process.wait()
    if process.returncode != 0:
        raise GoError(_failure(binary.name, log))
    partial.rename(binary)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the compiler, and tell every few seconds how far it is."""
    began = time.monotonic()
    while True:
        try:
            process.wait(PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            _tell_progress(time.monotonic() - began, log)
        else:
            return


def _tell_progress(seconds: float, log: Path) -> None:
    lines = log.read_text().splitlines()
    downloads = sum(line.startswith("go: downloading ") for line in lines)
    _tell(f"  {seconds:4.0f} s: {downloads} modules downloaded, {len(lines) - downloads} packages compiled")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _failure(name: str, log: Path) -> str:
    tail = "\n".join(log.read_text().splitlines()[-TAIL_LINES:])
    return (
        f"Go could not compile {name}. It said:\n{tail}\n"
        "If it could not download a module, check the network (GOPROXY names the module proxy) and try "
        f"again: what is compiled by now is kept. The whole output is in {log}."
    )


def _prune(cache: Path, name: str) -> None:
    """Remove all but the builds of this name that were used last; running processes keep theirs open."""
    builds = [path for path in cache.iterdir() if re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", path.name)]
    builds.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in builds[KEPT_BUILDS:]:
        shutil.rmtree(old, ignore_errors=True)

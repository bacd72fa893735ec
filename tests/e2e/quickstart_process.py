"""`make run` as a process under test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Self

import psutil

from devcluster.report import READY
from tests.support.evidence import EVIDENCE

ROOT = Path(__file__).resolve().parents[2]

READY_SECONDS = 900
"""Enough for a machine on which nothing is compiled yet."""

STOP_SECONDS = 60


def _heed_ctrl_c() -> None:
    """Take SIGINT as from a terminal: a test run in the background of a shell inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Quickstart:
    """The first run in a folder of its own, as a person in that folder would see it.

    Attributes:
        here: The current folder of the run; its state is in `.dev` there.
        process: The process.
    """

    def __init__(self, here: Path, **environment: str) -> None:
        """Start it; a port that is free, unless the environment says otherwise."""
        self.here = here
        self.dev = here / ".dev"
        self._lines: list[str] = []
        self._more = Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "devcluster.quickstart"],
            cwd=here,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - nothing else runs in this process yet
        )
        self._reader = Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        EVIDENCE.homes[self.dev] = None
        for file in self.dev.rglob("*.token"):
            EVIDENCE.note_token(file.read_text().strip())

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._more:
            return "\n".join(self._lines)

    def wait_for(self, text: str, seconds: float = READY_SECONDS) -> None:
        """Wait until it has printed a text."""
        deadline = time.monotonic() + seconds
        with self._more:
            while not any(text in line for line in self._lines):
                left = deadline - time.monotonic()
                ended = not self._reader.is_alive()
                assert left > 0, f"{text!r} did not come within {seconds} s:\n" + "\n".join(self._lines)
                assert not ended, f"it ended without {text!r}:\n" + "\n".join(self._lines)
                self._more.wait(min(left, 1))

    def wait_ready(self) -> None:
        """Wait until all of it is up."""
        self.wait_for(READY)

    def wait(self) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        status = self.process.wait(READY_SECONDS)
        self._reader.join()
        return status

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal, as Ctrl-C would, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(STOP_SECONDS)
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this run, told by its environment: orphans too, but not itself."""
        return [p for p in psutil.process_iter() if p.pid != self.process.pid and self._owns(p)]

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a shell of its own, in the run's folder."""
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.here,
            env={**_clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=STOP_SECONDS,
        )

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        own = {"KUBEVEND_DEV_DIR": str(self.dev), "KUBEVEND_PORT": "0", "PYTHONPATH": str(ROOT)}
        return {**_clean_environment(), **own, **given}

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("KUBEVEND_DEV_DIR") == str(self.dev)
        except psutil.Error:
            return False  # it ended just now, or is not ours

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self._lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Poll a condition that nothing announces, and fail if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def _clean_environment() -> dict[str, str]:
    """The environment of somebody who has set up nothing for Kubernetes or kubevend."""
    return {
        name: value for name, value in os.environ.items() if name != "KUBECONFIG" and not name.startswith("KUBEVEND_")
    }

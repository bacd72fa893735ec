"""What is done when files have changed: a command, or a signal."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubevend.agent.config import Output, RunCommand, SendSignal
from kubevend.agent.log import Log
from kubevend.agent.processes import Processes
from kubevend.upkeep import now

_LONGEST_ID = 32
"""Bytes of a file with a process id."""


@dataclass
class Counts:
    """How often it went well, failed, and took too long."""

    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0


class Action:
    """What one output does. A command that is still running is not run beside itself, but once more after it."""

    def __init__(self, output: Output, processes: Processes, child: Callable[[], int], log: Log) -> None:
        """Take the output, who starts processes, and the child's process id, which is 0 while there is none."""
        self.counts = Counts()
        self._output = output
        self._processes = processes
        self._child = child
        self._log = log
        self._running = 0
        self._ends_by = 0.0
        self._again = False
        self._too_long = False

    def fire(self) -> None:
        """Do it."""
        match self._output.on_change:
            case RunCommand() if self._running:
                self._again = True
            case RunCommand() as wanted:
                self._run(wanted)
            case SendSignal(number, None):
                self._signal_child(number)
            case SendSignal(number, pid_file) if pid_file:
                self._signal_file(number, pid_file)

    @property
    def is_running(self) -> bool:
        """Whether a command is running."""
        return self._running != 0

    def tick(self) -> None:
        """End what takes too long."""
        if self._running and not self._too_long and now() >= self._ends_by:
            self.stop()

    def stop(self) -> None:
        """End the command that is running, with all that it has started."""
        if self._running:
            self._too_long = True
            self._processes.signal(self._running, signal.SIGKILL, group=True)

    def _run(self, wanted: RunCommand) -> None:
        told = {"KUBEVEND_AGENT_OUTPUT": self._output.name, "KUBEVEND_AGENT_FILE": str(self._output.content.file)}
        self._ends_by = now() + wanted.timeout.total_seconds()
        self._too_long = False
        try:
            self._running = self._processes.start(wanted.command, {**os.environ, **told}, self._ended)
        except OSError as error:
            self._failed(f"{wanted.command[0]} cannot be started: {error.strerror}")

    def _ended(self, code: int) -> None:
        self._running = 0
        if self._too_long:
            self.counts.timed_out += 1
            self._log.error("command_timed_out", output=self._output.name)
        elif code:
            self._failed(f"it ended with {code}")
        else:
            self._done()
        again, self._again = self._again, False
        if again:
            self.fire()

    def _signal_child(self, number: signal.Signals) -> None:
        if process := self._child():  # one that has not started yet reads the file when it does
            self._processes.signal(process, number)
            self._done()

    def _signal_file(self, number: signal.Signals, pid_file: Path) -> None:
        try:
            os.kill(_process_id(_read_start(pid_file)), number)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no process id"
            self._failed(f"the process of {pid_file} did not get {number.name}: {why}")
        else:
            self._done()

    def _done(self) -> None:
        self.counts.succeeded += 1
        self._log.info("change_told", output=self._output.name)

    def _failed(self, why: str) -> None:
        self.counts.failed += 1
        self._log.error("change_not_told", output=self._output.name, why=why)


def _read_start(file: Path) -> str:
    """What a small file holds. Whoever may write it may as well have put a link or a pipe there, which are not read.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return os.read(handle, _LONGEST_ID).decode(errors="replace")
    finally:
        os.close(handle)


def _process_id(text: str) -> int:
    """The id in a text.

    Raises:
        ValueError: it is none; 0 and less would be a whole group of processes.
    """
    process = int(text)
    if process <= 0:
        raise ValueError(text)
    return process

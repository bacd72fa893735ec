"""The agent itself: one thread that writes files, starts commands, and takes signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from kubevend.agent.actions import Action
from kubevend.agent.config import Config
from kubevend.agent.health import Beat, Health
from kubevend.agent.keeping import Keeper
from kubevend.agent.log import Log
from kubevend.agent.placing import PlacingError
from kubevend.agent.processes import Processes
from kubevend.agent.supply import Supply
from kubevend.agent.wakeups import Wakeups
from kubevend.connection import Settings
from kubevend.errors import ClientError, Unavailable
from kubevend.upkeep import PERMANENT, now

_TURN_SECONDS = 1.0
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_SIGNALLED = 128


class Agent:
    """Keeps all outputs, until it is told to stop or its child ends."""

    def __init__(self, config: Config, settings: Settings, command: Sequence[str], timeout: float, log: Log) -> None:
        """Take what to do.

        Args:
            config: what to keep.
            settings: where kubevend is.
            command: the child, which is started once all files are there; empty for none.
            timeout: how long that may take, where there is a child, in seconds.
            log: where to tell what happens.
        """
        self._config = config
        self._settings = settings
        self._command = command
        self._log = log
        self._give_up_at = now() + timeout
        self._processes = Processes()
        self._beat = Beat()
        self._child = 0
        self._exit: int | None = None
        self._keepers = [
            Keeper(output, Action(output, self._processes, lambda: self._child, log), log) for output in config.outputs
        ]

    def run(self) -> int:
        """Do it; the exit code: the child's, or 0 when a signal ended it.

        Raises:
            KubevendError: a token that the child needs could not be had.
            PlacingError: a file that it needs cannot be written.
        """
        with Wakeups() as wakeups, self._listening():
            for keeper in self._keepers:
                keeper.clear_leftovers()
            supply = Supply(self._settings, self._keepers, wakeups.post, self._log)
            supply.start()
            self._log.info("started", outputs=len(self._keepers), address=self._settings.address)
            try:
                while self._exit is None:
                    self._turn(wakeups)
            finally:
                supply.close(revoke=self._config.revoke_on_exit)
                for keeper in self._keepers:
                    keeper.action.stop()
                self._log.info("stopped", code=self._exit)
        return self._exit

    def _turn(self, wakeups: Wakeups) -> None:
        for number in wakeups.wait(_TURN_SECONDS):
            self._take(number)
        self._beat.beat()
        for keeper in self._keepers:
            keeper.tick()
        if self._command and not self._child and self._exit is None:
            self._start_child_in_time()

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._processes.reap()
        elif self._child:
            self._processes.signal(self._child, number)
        elif number in _STOPPING:
            # The child, which was to do the work, has not even been started.
            self._exit = _SIGNALLED + number if self._command else 0
        elif number == signal.SIGHUP:
            self._log.warning("config_not_read_again", message="Start the agent anew to have it read its config again.")

    def _start_child_in_time(self) -> None:
        if all(keeper.is_written for keeper in self._keepers):
            self._start_child()
            return
        for keeper in self._keepers:
            if keeper.failure and not keeper.is_written and keeper.failure.code in PERMANENT:
                raise keeper.failure
            if keeper.problem:
                raise PlacingError(keeper.problem)
        if now() >= self._give_up_at:
            missing = next(keeper for keeper in self._keepers if not keeper.is_written)
            raise missing.failure or Unavailable(
                f"{missing.output.name} was not there in time: {missing.state}.",
                code="UNAVAILABLE",
                reason="NOT_WRITTEN_IN_TIME",
            )

    def _start_child(self) -> None:
        try:
            self._child = self._processes.start(self._command, os.environ, self._child_ended, takes_input=True)
        except OSError as error:
            raise ClientError(
                f"{self._command[0]} cannot be started: {error.strerror}.", reason="CHILD_NOT_STARTED"
            ) from error
        _give_terminal(self._child)
        self._log.info("child_started", process=self._child)

    def _child_ended(self, code: int) -> None:
        self._log.info("child_ended", code=code)
        self._exit = code

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        if not self._config.health:
            yield
            return
        try:
            health = Health(self._config.health, self._keepers, self._beat, self._log)
        except OSError as error:
            raise ClientError(
                f"health.address: nothing can listen on {self._config.health}: {error.strerror}.",
                reason="SETTINGS_INVALID",
            ) from error
        try:
            yield
        finally:
            health.close()


def _give_terminal(child: int) -> None:
    """Have the terminal's keys reach the child, which has a process group of its own, as a shell would."""
    if not sys.stdin or not sys.stdin.isatty():
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with contextlib.suppress(OSError):  # it is gone, or the terminal is another session's
            os.tcsetpgrp(sys.stdin.fileno(), child)
            os.kill(child, signal.SIGCONT)  # it may have asked for input before
    finally:
        signal.signal(signal.SIGTTOU, before)

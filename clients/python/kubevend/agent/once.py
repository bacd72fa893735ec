"""The same for a CI job: every file once, or none."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from kubevend.agent.actions import Action
from kubevend.agent.clusters import find
from kubevend.agent.config import Config, Output, Request, files_of
from kubevend.agent.contents import render
from kubevend.agent.keeping import stage
from kubevend.agent.log import Log
from kubevend.agent.placing import Placed, PlacingError, clear_leftovers, commit_all
from kubevend.agent.processes import Processes
from kubevend.agent.supply import revoke, tell_failure
from kubevend.agent.wakeups import Wakeups
from kubevend.channels import CALL_SECONDS
from kubevend.client import Client
from kubevend.connection import Settings
from kubevend.errors import KubevendError
from kubevend.tokens import Token, new_request_id
from kubevend.upkeep import PERMANENT, now

Answer = TypeVar("Answer")

_FAILED = 1
_SIGNALLED = 128
_LONGEST_PAUSE_SECONDS = 5.0
_TURN_SECONDS = 1.0


class Once:
    """Has each token issued once, and writes all files, or none where anything fails."""

    def __init__(self, config: Config, settings: Settings, timeout: float, log: Log) -> None:
        """Take what to do, and how long to try where kubevend cannot be reached, in seconds."""
        self._config = config
        self._settings = settings
        self._give_up_at = now() + timeout
        self._log = log
        self._tokens: dict[Request, Token] = {}

    def run(self) -> int:
        """Do it; the exit code: 0, or 1 where a command that was to be told of a change failed.

        Raises:
            KubevendError: a token could not be had.
            PlacingError: a file cannot be written.
        """
        with _ending_on_signals(), Client(self._settings) as client:
            try:
                changed = self._write(client)
            except BaseException:
                for token in self._tokens.values():  # which nobody will ever use
                    revoke(client, token.lease, self._log)
                raise
        return self._tell(changed)

    def _write(self, client: Client) -> list[Output]:
        for output in self._config.outputs:
            for file in files_of(output):
                clear_leftovers(file)
            if output.request not in self._tokens:
                self._tokens[output.request] = self._issue(client, output.request)
        staged = self._stage([(output, self._render(client, output)) for output in self._config.outputs])
        commit_all([file for _, files in staged for file in files.values()])
        for output, files in staged:
            token = self._tokens[output.request]
            self._log.info(
                "written",
                output=output.name,
                files=[str(file) for file in files],
                lease=token.lease,
                jti=token.jti,
                expiration=token.expiration.isoformat(),
                warnings=[warning.message for warning in token.warnings],
            )
        return [output for output, files in staged if files]

    def _issue(self, client: Client, request: Request) -> Token:
        request_id = new_request_id()  # one for all attempts, so that an answer that was lost leaves no second lease
        return self._try(
            request.role,
            lambda left: client.issue(**request.fields(), request_id=request_id, timeout=min(left, CALL_SECONDS)),
        )

    def _render(self, client: Client, output: Output) -> dict[Any, bytes]:
        where: Callable[[float], Any] = lambda _: find(client, output.request.role, output.cluster)  # noqa: E731
        place = self._try(output.request.role, where) if output.needs_cluster else None
        return render(output, self._tokens[output.request], place)

    def _stage(self, contents: list[tuple[Output, dict[Any, bytes]]]) -> list[tuple[Output, dict[Any, Placed]]]:
        staged: list[tuple[Output, dict[Any, Placed]]] = []
        try:
            for output, files in contents:
                staged.append((output, stage(output, files)))
        except PlacingError:
            for _, written in staged:
                for file in written.values():
                    file.discard()
            raise
        return staged

    def _try(self, role: str, attempt: Callable[[float], Answer]) -> Answer:
        """Make an attempt, again after failures that may come right by themselves, while there is time.

        Raises:
            KubevendError: it was refused, or the time is over.
        """
        pause = 0.5
        while True:
            try:
                return attempt(max(1.0, self._give_up_at - now()))
            except KubevendError as error:
                tell_failure(self._log, role, error)
                wait = max(pause, error.retry_after.total_seconds() if error.retry_after else 0.0)
                if error.code in PERMANENT or now() + wait >= self._give_up_at:
                    raise
                time.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - no secret
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _tell(self, changed: list[Output]) -> int:
        """Do what is to be done when the files have changed, and wait for it."""
        processes = Processes()
        actions = [Action(output, processes, lambda: 0, self._log) for output in changed]
        with Wakeups() as wakeups:
            for action in actions:
                action.fire()
            while any(action.is_running for action in actions):
                for number in wakeups.wait(_TURN_SECONDS):
                    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                        for action in actions:
                            action.stop()
                        return _SIGNALLED + number
                processes.reap()
                for action in actions:
                    action.tick()
        return _FAILED if any(action.counts.failed + action.counts.timed_out for action in actions) else 0


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """End at a signal even as PID 1, for which the kernel has no default action. What is half done is undone."""

    def end(number: int, _: object) -> NoReturn:
        sys.exit(_SIGNALLED + number)

    before = [(number, signal.signal(number, end)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)

"""The processes that the agent starts, and those that become its children: as PID 1 it gets all orphans."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

_MESSAGE_EXIT = 128


class Processes:
    """Starts and reaps. To be used by one thread, so that none is reaped before it is known."""

    def __init__(self) -> None:
        self._ends: dict[int, Callable[[int], None]] = {}

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_end: Callable[[int], None],
        *,
        takes_input: bool = False,
    ) -> int:
        """Start a command, in a process group of its own; its process id.

        By posix_spawn(3), since to fork a process with gRPC's threads is asking for trouble.

        Args:
            command: the program, looked for on PATH, and its arguments.
            environment: all of its variables.
            on_end: is called with how it ended, as shells tell it: a signal as 128 and its number.
            takes_input: whether it shares the agent's stdin; else it has none.

        Raises:
            OSError: there is no such program, or its like.
        """
        nothing = [] if takes_input else [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        process = os.posix_spawnp(
            command[0],
            [*command],
            environment,
            file_actions=nothing,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores, and ignored ones are inherited
        )
        self._ends[process] = on_end
        return process

    def reap(self) -> None:
        """Take note of all that have ended, the agent's own and orphans."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if end := self._ends.pop(process, None):
                end(_code(status))

    @staticmethod
    def signal(process: int, number: int, *, group: bool = False) -> None:
        """Send a signal to a process that was started, or its group, unless it is gone."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process, number)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _MESSAGE_EXIT - code

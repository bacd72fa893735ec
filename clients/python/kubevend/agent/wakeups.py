"""What the agent's main thread waits for: signals, and what other threads want done there."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
"""What a child gets, too."""


class Wakeups:
    """While it is entered, signals do nothing but to end a `wait`. To be entered by the main thread."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._read, self._write = os.pipe()
        for end in self._read, self._write:
            os.set_blocking(end, False)
        self._before: list[tuple[signal.Signals, Any]] = []
        self._descriptor = -1

    def post(self, call: Callable[[], object]) -> None:
        """Have something called by the main thread. From any thread."""
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # full: it wakes up anyway
            os.write(self._write, b"\0")

    def wait(self, seconds: float) -> list[signal.Signals]:
        """Wait for something, so long at the most; make the calls, and return the signals, in their order."""
        select.select([self._read], [], [], seconds)
        taken = b""
        with contextlib.suppress(BlockingIOError):
            taken = os.read(self._read, 4096)
        while self._calls:
            self._calls.popleft()()
        return [signal.Signals(number) for number in taken if number]

    def __enter__(self) -> Self:
        self._descriptor = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = [(each, signal.signal(each, _nothing)) for each in (*FORWARDED, signal.SIGCHLD)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._before:
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._descriptor)
        os.close(self._read)
        os.close(self._write)


def _nothing(*_: object) -> None:
    """The number is in the pipe by now."""

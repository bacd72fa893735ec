"""Stop at a signal, wherever the program is, and leave no process behind."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType

import psutil

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 5


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to stop; not an `Exception`, so that only whoever means it catches it."""


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into `Stopped`, raised in the main thread.

    Later ones are ignored: what runs by then is the clean-up, which takes a bounded time.

    Attributes:
        received: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._cleaning = False

    def install(self) -> None:
        """Take over the signals of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Let nothing interrupt the clean-up that begins now."""
        self._cleaning = True

    def check(self) -> None:
        """Raise `Stopped` if a signal came but its exception was lost.

        Python drops exceptions in finalizers and callbacks, and a signal can come while one of those runs.
        """
        if self.received is not None and not self._cleaning:
            raise Stopped

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._cleaning or self.received is not None:
            return
        self.received = signal.Signals(number)
        raise Stopped


def end_descendants() -> None:
    """End every process that descends from this one.

    For those that a signal caught between their start and their entry in anybody's books.
    """
    left = psutil.Process().children(recursive=True)
    for process in left:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(left, timeout=_GRACE_SECONDS)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, which is all we want
        process.send_signal(number)

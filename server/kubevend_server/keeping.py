"""What runs beside the calls, for as long as the server does: it ends leases, follows files, keeps what is known fresh.

One that fails for a reason that nobody foresaw stops the server, with a failure, so that whoever supervises it starts
it anew. A server that went on without would not end its leases, or decide by policies that are no longer those in the
folder, and look well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

_log = structlog.get_logger()


class Keeper(Protocol):
    """What keeps something in order until it is cancelled."""

    async def run(self) -> None:
        """Go on."""


class Keepers:
    """All of them."""

    def __init__(self, keepers: Sequence[Keeper], stop: asyncio.Event) -> None:
        """Let them run.

        Args:
            keepers: they.
            stop: is set when one of them fails.
        """
        self._stop = stop
        self._failed = ""
        self._tasks = [asyncio.create_task(keeper.run(), name=type(keeper).__name__) for keeper in keepers]
        for task in self._tasks:
            task.add_done_callback(self._look_at)

    async def end(self) -> None:
        """End them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Tell if one has failed.

        Raises:
            RuntimeError: one has.
        """
        if self._failed:
            raise RuntimeError(f"{self._failed} failed, for a reason that the log has above, so the server has stopped")

    def _look_at(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._failed = task.get_name()
        _log.critical("keeper_failed", keeper=self._failed, exc_info=error)
        self._stop.set()

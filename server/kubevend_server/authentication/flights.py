"""Questions that are being asked just now: who asks the same waits for the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Flights(Generic[Key, Answer]):
    """One question for each key at a time."""

    def __init__(self) -> None:
        self._under_way: dict[Key, asyncio.Task[Answer]] = {}

    async def join(self, key: Key, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Wait for the answer to the question that is under way; begin it where none is.

        It goes on where one of those who wait gives up. What it raises, all of them get, so that what is foreseen had
        better be an answer.
        """
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = asyncio.create_task(ask())
            flight.add_done_callback(lambda ended: self._end(key, ended))
        return await asyncio.shield(flight)

    def _end(self, key: Key, flight: asyncio.Task[Answer]) -> None:
        del self._under_way[key]
        if not flight.cancelled():
            flight.exception()  # looked at, lest asyncio complain where nobody waits any more

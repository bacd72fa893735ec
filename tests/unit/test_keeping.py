from __future__ import annotations

import asyncio

import pytest

from kubevend_server.keeping import Keepers


class Keeper:
    """Goes on until it is told to fail."""

    def __init__(self) -> None:
        """Begin well."""
        self.fails = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        """Wait for it."""
        try:
            await self.fails.wait()
            raise KeyError("nobody foresaw this")
        finally:
            self.ended = True


async def test_keepers_end_with_the_server() -> None:
    """At the end of the server all have ended, and none has failed."""
    stop, keepers = asyncio.Event(), [Keeper(), Keeper()]
    keeping = Keepers(keepers, stop)
    await asyncio.sleep(0)
    await keeping.end()
    keeping.check()
    assert not stop.is_set()
    assert all(keeper.ended for keeper in keepers)


async def test_a_keeper_that_fails_stops_the_server() -> None:
    """A failure that nobody foresaw is told, stops the server, and makes it end with a failure."""
    stop, keepers = asyncio.Event(), [Keeper(), Keeper()]
    keeping = Keepers(keepers, stop)
    keepers[0].fails.set()
    await stop.wait()
    await keeping.end()
    with pytest.raises(RuntimeError, match="Keeper failed"):
        keeping.check()
    assert keepers[1].ended

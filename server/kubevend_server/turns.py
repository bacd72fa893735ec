"""Taking turns at a cluster, so that a caller who asks for much does not keep those waiting who ask for little.

A cluster is asked for so many tokens at once and no more; what is more waits here, each caller in a line of its own,
and the lines take turns. A caller who has nothing under way is *modest*, and never waits behind others' lines.

That alone is not enough: what is under way shares the cluster, and this process's one thread, with whoever comes. So
while modest callers come, the others get only so many turns at once as leave the cluster about as quick as it is for
one: a window, found out much as TCP Vegas finds out its own. It begins narrow, and widens while tokens take about as
long as they did then. A cluster that is far away has a wide one, one that is busy a narrow one. Where nobody is modest
there is nobody to be kept waiting, and no window.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_NARROWEST = 1.0
_TOLERATED = 1.5
"""How many times the shortest time tokens may take while the window still grows."""
_MODEST_SECONDS = 1.0
"""For so long after a modest caller came others are to be expected."""
_BELIEVED_SECONDS = 5.0
"""For so long the shortest time is believed; then the window begins narrow again, where it can be found out."""


@dataclass(slots=True)
class Window:
    """How many turns leave a cluster about as quick as it is for one.

    Attributes:
        size: so many, rounded down.
        shortest: the shortest time in seconds that a token took since `began`.
        began: when it was narrow last.
    """

    size: float = _NARROWEST
    shortest: float = float("inf")
    began: float = 0.0

    def begin(self, now: float) -> None:
        """Begin narrow again."""
        self.size, self.shortest, self.began = _NARROWEST, float("inf"), now

    def learn(self, seconds: float, most: int, now: float) -> None:
        """Take into account how long a token took."""
        if now - self.began > _BELIEVED_SECONDS:
            self.begin(now)
        self.shortest = min(self.shortest, seconds)
        if seconds <= self.shortest * _TOLERATED:
            self.size = min(self.size + 1 / self.size, most)
        else:
            self.size = max(self.size - 1 / self.size, _NARROWEST)


@dataclass(slots=True)
class _Counter:
    """Where callers stand in line.

    Attributes:
        lines: who waits, the next one first.
        served: how many turns each caller has.
        window: how many turns callers have who are not modest.
        modest_until: for how long modest callers are to be expected.
    """

    lines: OrderedDict[str, deque[asyncio.Future[None]]] = field(default_factory=OrderedDict)
    served: Counter[str] = field(default_factory=Counter)
    window: Window = field(default_factory=Window)
    modest_until: float = 0.0


class Turns:
    """Who may ask a cluster next. To be used on the event loop's thread only."""

    def __init__(self, most: int, monotonic: Callable[[], float]) -> None:
        """Take how many may ask one cluster at once, and seconds that never go back."""
        self._most = most
        self._monotonic = monotonic
        self._counters: dict[str, _Counter] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        lines = [line for counter in self._counters.values() for line in counter.lines.values()]
        return sum(not called.done() for line in lines for called in line)

    @asynccontextmanager
    async def take(self, cluster: str, caller: str) -> AsyncIterator[None]:
        """Wait for a caller's turn at a cluster, and have it.

        Args:
            cluster: the name of its config.
            caller: the caller's name.
        """
        counter = self._counters.setdefault(cluster, _Counter())
        self._notice(counter, caller)
        if caller in counter.lines or not self._has_room(counter, caller):
            await self._stand_in_line(counter, caller)
        else:
            counter.served[caller] += 1
        try:
            yield
        finally:
            self._end(counter, caller)

    def learn(self, cluster: str, seconds: float) -> None:
        """Take into account how long a token took for which a cluster was asked."""
        counter = self._counters.get(cluster)
        now = self._monotonic()
        if counter is not None and now < counter.modest_until:
            counter.window.learn(seconds, self._most, now)

    def _notice(self, counter: _Counter, caller: str) -> None:
        if counter.served[caller] or caller in counter.lines or not counter.served.total():
            return
        now = self._monotonic()
        if now >= counter.modest_until:
            counter.window.begin(now)
        counter.modest_until = now + _MODEST_SECONDS

    def _has_room(self, counter: _Counter, caller: str) -> bool:
        modest = not counter.served[caller]
        narrow = not modest and self._monotonic() < counter.modest_until
        return counter.served.total() < (min(int(counter.window.size), self._most) if narrow else self._most)

    async def _stand_in_line(self, counter: _Counter, caller: str) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        counter.lines.setdefault(caller, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():
                # It was called in the same moment, and passes that on.
                self._end(counter, caller)
            raise

    def _end(self, counter: _Counter, caller: str) -> None:
        counter.served[caller] -= 1
        if not counter.served[caller]:
            del counter.served[caller]
        self._call_next(counter)

    def _call_next(self, counter: _Counter) -> None:
        """Give turns to the lines that have waited longest for one, as far as there is room for their callers."""
        while any(self._call(counter, caller) for caller in list(counter.lines)):
            pass

    def _call(self, counter: _Counter, caller: str) -> bool:
        if not self._has_room(counter, caller):
            return False
        line = counter.lines.pop(caller)
        called = _first(line)
        if line:
            counter.lines[caller] = line
        if called is not None:
            counter.served[caller] += 1
            called.set_result(None)
        return called is not None


def _first(line: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """Take the first from a line who has not left; None where all have."""
    while line:
        called = line.popleft()
        if not called.done():
            return called
    return None

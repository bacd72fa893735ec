"""Taking turns at a cluster, so that a caller who asks for much does not keep those waiting who ask for little.

A cluster is asked for so many tokens at once and no more; what is more waits here, each caller in a line of its own,
and the lines take turns. A caller who has nothing under way is *modest*, and never waits behind others' lines.

That alone is not enough: what is under way shares the cluster, and this process's one thread, with whoever comes. So
while modest callers come, the others get only so many turns as leave the cluster about as quick as it is for one: a
window, found out much as TCP Vegas finds out its own. It begins narrow, and widens while tokens take about as long as
they did then. A cluster that is far away has a wide one, one that is busy a narrow one. Where nobody is modest there is
nobody to be kept waiting, and no window.

The others do not begin turns whenever there is room in the window, but in the gaps: while a modest caller's call is
under way, until its answer is recorded, they pause. Its end earns them as many turns as the window is wide; where that
is half a turn, they have one after every second call. A call that takes far longer than tokens do stops nobody longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_NARROWEST = 0.5
_TOLERATED = 1.5
"""How many times the shortest time tokens may take while the window still grows."""
_MODEST_SECONDS = 1.0
"""For so long after a modest caller came others are to be expected."""
_LONGEST_PAUSE = 10
"""For how many times as long as a token takes a modest caller's call keeps the others waiting, at most."""
_USUAL_SECONDS = 0.01
"""What is taken for the time of a token before one was seen."""
_FORGETS = 0.1
"""The share of the newest token in the usual time."""
_BELIEVED_SECONDS = 5.0
"""For so long the shortest time is believed; then the window begins narrow again, where it can be found out."""


@dataclass(slots=True)
class Window:
    """How many turns leave a cluster about as quick as it is for one.

    Attributes:
        size: so many; less than one is one, but not after each call of a modest caller.
        shortest: the shortest time in seconds that a token took since `began`.
        usual: the time in seconds that a token takes these days.
        began: when it was narrow last.
    """

    size: float = _NARROWEST
    shortest: float = float("inf")
    usual: float = _USUAL_SECONDS
    began: float = 0.0

    def begin(self, now: float) -> None:
        """Begin narrow again."""
        self.size, self.shortest, self.began = _NARROWEST, float("inf"), now

    def learn(self, seconds: float, most: int, now: float) -> None:
        """Take into account how long a token took."""
        if now - self.began > _BELIEVED_SECONDS:
            self.begin(now)
        self.shortest = min(self.shortest, seconds)
        self.usual += (seconds - self.usual) * _FORGETS
        step = min(1 / self.size, self.size / 4)
        if seconds <= self.shortest * _TOLERATED:
            self.size = min(self.size + step, most)
        else:
            self.size = max(self.size - step, _NARROWEST)


@dataclass(slots=True)
class _Call:
    """A call that wants a turn.

    Attributes:
        caller: whose.
        modest: whether its caller had nothing under way when it came.
        called: done once it has its turn.
    """

    caller: str
    modest: bool
    called: asyncio.Future[None]


@dataclass(slots=True)
class _Counter:
    """Where callers stand in line.

    Attributes:
        lines: who waits, the next one first.
        served: how many turns each caller has.
        others: how many of these are of calls that are not modest.
        window: how many turns these may have.
        modest_until: for how long modest callers are to be expected.
        present: how many calls of modest callers are under way.
        credit: how many turns the others may begin all the same.
        paused_until: for how long they begin none without.
        waking: ends the pause.
    """

    lines: OrderedDict[str, deque[_Call]] = field(default_factory=OrderedDict)
    served: Counter[str] = field(default_factory=Counter)
    others: int = 0
    window: Window = field(default_factory=Window)
    modest_until: float = 0.0
    present: int = 0
    credit: float = 0.0
    paused_until: float = 0.0
    waking: asyncio.TimerHandle | None = None


Settled = Callable[[object], None]
"""Called once a call is recorded, with whatever became of it."""


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
        return sum(not call.called.done() for line in lines for call in line)

    @asynccontextmanager
    async def take(self, cluster: str, caller: str, settled: Callable[[Settled], None]) -> AsyncIterator[None]:
        """Wait for a caller's turn at a cluster, and have it.

        Args:
            cluster: the name of its config.
            caller: the caller's name.
            settled: takes what is to be called once the call is recorded, which must happen whatever becomes of it.
        """
        counter = self._counters.setdefault(cluster, _Counter())
        modest = not counter.served[caller] and caller not in counter.lines
        call = _Call(caller, modest, asyncio.get_running_loop().create_future())
        if modest:
            self._come(counter)
            settled(lambda _: self._go(counter))
        await self._stand_in_line(counter, call)
        try:
            yield
        finally:
            self._end(counter, call)

    def learn(self, cluster: str, seconds: float) -> None:
        """Take into account how long a token took for which a cluster was asked."""
        counter = self._counters.get(cluster)
        now = self._monotonic()
        if counter is not None and now < counter.modest_until:
            counter.window.learn(seconds, self._most, now)

    def _come(self, counter: _Counter) -> None:
        """A modest caller's call has come: where there are others, they pause."""
        counter.present += 1
        if not counter.served.total() and not counter.lines:
            return
        now = self._monotonic()
        if now >= counter.modest_until:
            counter.window.begin(now)
            counter.credit = 0.0
        counter.modest_until = now + _MODEST_SECONDS
        self._pause(counter, counter.window.usual * _LONGEST_PAUSE)

    def _go(self, counter: _Counter) -> None:
        """A modest caller's call is over: the others earn what the window is wide."""
        counter.present -= 1
        size = counter.window.size
        counter.credit = min(counter.credit + size, max(size, 1.0))
        if not counter.present:
            # The next one comes soon, if it comes right after this one.
            self._pause(counter, counter.window.usual)
        self._call_next(counter)

    def _pause(self, counter: _Counter, seconds: float) -> None:
        counter.paused_until = self._monotonic() + seconds
        if counter.waking is not None:
            counter.waking.cancel()
        counter.waking = asyncio.get_running_loop().call_later(seconds, self._wake, counter)

    def _wake(self, counter: _Counter) -> None:
        counter.waking = None
        left = counter.paused_until - self._monotonic()
        if left > 0:
            self._pause(counter, left)
        else:
            self._call_next(counter)

    def _has_room(self, counter: _Counter, call: _Call) -> bool:
        now = self._monotonic()
        room = counter.served.total() < self._most
        if call.modest or now >= counter.modest_until:
            return room
        paused = now < counter.paused_until and counter.credit < 1
        return room and not paused and counter.others < max(int(counter.window.size), 1)

    async def _stand_in_line(self, counter: _Counter, call: _Call) -> None:
        line = counter.lines.setdefault(call.caller, deque())
        line.append(call)
        if line[0] is call and self._call(counter, call.caller):
            return
        try:
            await call.called
        except asyncio.CancelledError:
            if not call.called.cancelled():
                # It was called in the same moment, and passes that on.
                self._end(counter, call)
            raise

    def _end(self, counter: _Counter, call: _Call) -> None:
        counter.others -= not call.modest
        counter.served[call.caller] -= 1
        if not counter.served[call.caller]:
            del counter.served[call.caller]
        self._call_next(counter)

    def _call_next(self, counter: _Counter) -> None:
        """Give turns to the lines that have waited longest for one, as far as there is room for their callers."""
        while any(self._call(counter, caller) for caller in list(counter.lines)):
            pass

    def _call(self, counter: _Counter, caller: str) -> bool:
        """Give a turn to the first of a line who has not left, where there is room."""
        line = counter.lines[caller]
        while line and line[0].called.done():
            line.popleft()
        if not line:
            del counter.lines[caller]
            return False
        if not self._has_room(counter, line[0]):
            return False
        self._serve(counter, line.popleft())
        del counter.lines[caller]
        if line:
            counter.lines[caller] = line
        return True

    def _serve(self, counter: _Counter, call: _Call) -> None:
        counter.served[call.caller] += 1
        if not call.modest:
            counter.others += 1
            counter.credit = max(counter.credit - 1, 0.0)
        call.called.set_result(None)

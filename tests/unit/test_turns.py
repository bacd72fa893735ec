from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.turns import Settled, Turns, Window
from tests.unit.builders import Stopwatch

CLUSTER = "configs/default"


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class Calls:
    """Calls that have their turn until the test ends it, in the order in which they got it."""

    turns: Turns
    served: list[str] = field(default_factory=list)
    ends: dict[str, list[asyncio.Event]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def _call(self, caller: str, cluster: str) -> None:
        settled: list[Settled] = []
        try:
            async with self.turns.take(cluster, caller, settled.append):
                self.served.append(caller)
                end = asyncio.Event()
                self.ends.setdefault(caller, []).append(end)
                await end.wait()
        finally:
            for settle in settled:
                settle(None)

    async def begin(self, callers: str, cluster: str = CLUSTER) -> None:
        """Let each of these callers, one letter each, ask for a turn."""
        self.tasks += [asyncio.create_task(self._call(caller, cluster)) for caller in callers]
        await settle()

    async def end(self, callers: str) -> None:
        """End the oldest turn of each of these callers, one after the other."""
        for caller in callers:
            self.ends[caller].pop(0).set()
            await settle()


@pytest.fixture
def clock() -> Stopwatch:
    """The clock."""
    return Stopwatch()


@asynccontextmanager
async def calls(most: int, clock: Callable[[], float]) -> AsyncIterator[Calls]:
    """Calls that take turns, so many at once; what is left is cancelled."""
    made = Calls(Turns(most, clock))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    assert made.turns.waiting == 0
    assert all(not counter.served and not counter.lines for counter in made.turns._counters.values())


async def test_callers_take_turns(clock: Stopwatch) -> None:
    """So many are served at once; when one is done, the lines are served in turn, whatever their lengths."""
    async with calls(2, clock) as asked:
        await asked.begin("aaaaabbc")
        assert (asked.served, asked.turns.waiting) == (["a", "a"], 6)
        clock.now += 10  # nobody is modest any more
        await asked.end("aa")
        await asked.end("ab")
        assert asked.served == [*"aa", *"abca"]


async def test_a_lone_caller_has_all_turns(clock: Stopwatch) -> None:
    """Where nobody else comes, one caller is served as often at once as the setting says, and in order."""
    async with calls(8, clock) as asked:
        await asked.begin("a" * 20)
        assert asked.served == ["a"] * 8
        await asked.end("a" * 8)
        assert asked.served == ["a"] * 16


async def test_a_modest_caller_does_not_wait(clock: Stopwatch) -> None:
    """While one caller has a line, another who has nothing under way is the next; while such come others have few."""
    async with calls(8, clock) as asked:
        await asked.begin("a" * 20)
        await asked.end("a")
        asked.served.clear()
        await asked.end("aa")
        await asked.begin("b")
        assert asked.served == ["a", "a"]
        assert asked.turns.waiting == 10
        await asked.end("aaaaaaa")
        # The line was served before the modest one came, and now is only once what is under way fits into the window.
        assert asked.served[:3] == ["a", "a", "b"]
        under_way = sum(map(len, asked.ends.values()))
        assert under_way == 2
        clock.now += 2
        await asked.end("a")
        assert sum(map(len, asked.ends.values())) == 8


async def test_others_pause_while_a_modest_caller_is_served(clock: Stopwatch) -> None:
    """While a modest caller's call is under way others begin no turn, though theirs end; after every second such call
    they have one, since the window is narrow.
    """
    async with calls(8, clock) as asked:
        await asked.begin("a" * 20)
        await asked.end("a")  # its first, when it had nothing under way
        await asked.begin("b")
        await asked.end("a" * 8)
        assert asked.served == [*"a" * 9, "b"]
        asked.served.clear()
        for _ in range(4):
            await asked.end("b")
            await asked.begin("b")
            await asked.end("a" * len(asked.ends["a"]))
        assert asked.served == [*"bab", *"bab"]


async def test_a_call_that_hangs_stops_nobody(clock: Stopwatch) -> None:
    """Others pause for a moment at most, however long a modest caller's call takes."""
    async with calls(8, clock) as asked, asyncio.timeout(30):
        await asked.begin("a" * 20)
        await asked.end("a")
        await asked.begin("b")
        await asked.end("a" * 8)
        clock.now += 0.5
        while len(asked.served) == 10:
            await settle()
        assert asked.served == [*"a" * 9, *"ba"]


async def test_a_cluster_far_away_has_a_wide_window(clock: Stopwatch) -> None:
    """Where tokens take as long as ever although many are asked for at once, a modest caller's call earns the others as
    many turns as that leaves the window wide.
    """
    async with calls(8, clock) as asked:
        await asked.begin("a" * 20)
        await asked.end("a")
        await asked.begin("b")
        for _ in range(100):
            asked.turns.learn(CLUSTER, 0.1)
        await asked.end("a" * 8)
        asked.served.clear()
        await asked.end("b")
        assert asked.served == ["a"] * 8


async def test_clusters_have_turns_of_their_own(clock: Stopwatch) -> None:
    """A cluster that answers nobody keeps nobody from another one."""
    async with calls(2, clock) as asked:
        await asked.begin("aaaa")
        await asked.begin("ab", "configs/other")
        assert asked.served == ["a", "a", "a", "b"]


async def test_who_gives_up_leaves_the_line(clock: Stopwatch) -> None:
    """A call that is cancelled while it waits, or in the moment in which its turn comes, keeps no turn."""
    async with calls(1, clock) as asked:
        await asked.begin("aab")
        asked.tasks[1].cancel()
        await settle()
        assert asked.turns.waiting == 1
        asked.ends["a"].pop().set()
        # b is called in this very turn of the loop, and cancelled in it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.tasks[2].cancel()
        await settle()
        await asked.begin("c")
        assert asked.served[-1] == "c"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["begin", "end", "cancel", "later"])), max_size=60))
def test_nobody_is_forgotten(steps: list[tuple[str, str]]) -> None:
    """Whatever comes, ends and gives up when: never more are served than may be, and in the end all are."""

    async def play() -> None:
        clock = Stopwatch()
        async with calls(3, clock) as asked:
            for caller, step in steps:
                if step == "begin":
                    await asked.begin(caller)
                elif step == "end" and asked.ends.get(caller):
                    await asked.end(caller)
                elif step == "cancel" and asked.tasks:
                    asked.tasks.pop().cancel()
                    await settle()
                clock.now += 0.3 * (step == "later")
                assert sum(counter.served.total() for counter in asked.turns._counters.values()) <= 3
            asked.tasks = [task for task in asked.tasks if not task.done()]
            while asked.turns.waiting:
                if not any(asked.ends.values()):
                    await asked.begin("z")
                clock.now += 2  # nobody pauses any more
                await asked.end(next(caller for caller, ends in asked.ends.items() if ends))

    asyncio.run(play())


def simulated(capacity: int, alone: float, most: int) -> float:
    """The mean window at a cluster that serves so many at once, each in `alone` seconds or a little more."""
    luck, window, now, busy = itertools.cycle((1, 1.3, 1.1, 1.2, 1.05)), Window(), 0.0, list[tuple[float, float]]()
    window.begin(now)
    sizes = []
    while now < 30:
        while len(busy) < max(1, int(window.size)):
            load = max(1.0, (len(busy) + 1) / capacity)
            heapq.heappush(busy, (now + alone * load * next(luck), now))
        now, began = heapq.heappop(busy)
        window.learn(now - began, most, now)
        sizes.append(window.size)
    return sum(sizes[len(sizes) // 2 :]) / (len(sizes) - len(sizes) // 2)


def test_the_window_is_as_wide_as_the_cluster() -> None:
    """It is narrow where a cluster serves few at once, wide where it serves many, and never beyond the setting."""
    narrow, middle, wide = (simulated(capacity, 0.01, 64) for capacity in (1, 8, 1000))
    assert narrow < 3 < middle < 20 < wide <= 64

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from kubevend_server.cluster import namespaces
from kubevend_server.cluster.connection import Answer, Connection, Request
from kubevend_server.cluster.failures import Attempt
from kubevend_server.cluster.namespaces import NamespaceWatch, NamespaceWatches
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError, Unavailable
from tests.unit.builders import config
from tests.unit.scripted_cluster import ScriptedCluster, partial, refused, said

Line = bytes | KubevendError | Exception | Callable[[], None]


def listed(version: str, **namespaces: dict[str, str]) -> Answer:
    """A list of namespaces with their labels."""
    items = [partial(name, labels=labels) for name, labels in namespaces.items()]
    return said(200, {"metadata": {"resourceVersion": version}, "items": items})


def event(kind: str, version: str, name: str = "", **labels: str) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": partial(name, resourceVersion=version, labels=labels)}).encode()


def bookmark(version: str) -> bytes:
    """The line that says that nothing was missed up to a state."""
    return event("BOOKMARK", version)


def ended(code: int) -> bytes:
    """The line with which a cluster ends a watch that it cannot go on with."""
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", "message": "no", "code": code}}).encode()


LOST = Unavailable("KUBERNETES_CONNECTION_LOST", "The connection was lost.")


class Watched(ScriptedCluster):
    """A cluster whose lists and watches are scripted. Once the last one has ended, the watch is cancelled."""

    def __init__(self, *script: Answer | KubevendError | list[Line]) -> None:
        """Take what is answered to a list, and the lines of each watch, in their order."""
        super().__init__()
        self.script = list(script)
        self.queries: list[dict[str, list[str]]] = []
        self.now = 1000.0
        self.pauses: list[float] = []
        self.wrong: list[str] = []
        self.watch = NamespaceWatch(self, lambda: self.now, self.pause, lambda: 1.0)

    async def pause(self, seconds: float) -> None:
        """Remember it, and go on at once."""
        self.pauses.append(seconds)

    def _next(self, request: Request) -> Any:
        self.queries.append(parse_qs(urlsplit(request.path).query))
        if not self.script:
            raise asyncio.CancelledError
        return self.script.pop(0)

    async def _send(self, request: Request, *_: Any) -> Answer:
        answer = self._next(request)
        if isinstance(answer, KubevendError):
            raise answer
        if not isinstance(answer, Answer):
            self.wrong.append("it lists where the script has a watch")
        return answer  # type: ignore[no-any-return]

    @asynccontextmanager
    async def lines(self, request: Request, attempt: Attempt, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of the next watch."""
        del attempt
        answer = self._next(request)
        if isinstance(answer, KubevendError):
            raise answer
        if seconds != 25 or not isinstance(answer, list):
            self.wrong.append("it watches where the script has a list, or for another time than it asks")

        async def each() -> AsyncIterator[bytes]:
            for line in answer:
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, bytes):
                    yield line
                else:
                    line()

        yield each()

    async def play(self) -> NamespaceWatch:
        """Run the watch through the whole script."""
        with suppress(asyncio.CancelledError):
            await self.watch.run()
        assert (self.script, self.wrong) == ([], [])
        return self.watch

    def versions(self) -> list[str]:
        """From which state each watch went on; empty for a list."""
        return [query.get("resourceVersion", [""])[0] for query in self.queries]


async def test_a_watch_follows_every_change() -> None:
    """What is listed, comes, changes and goes is known as it was last; each watch goes on where the last one ended."""
    cluster = Watched(
        listed("5", apps={"team": "a"}, old={}),
        [event("MODIFIED", "6", "apps", team="b"), event("ADDED", "7", "new", env="dev"), bookmark("8")],
        [event("DELETED", "9", "old"), bookmark("9")],
    )
    watch = await cluster.play()
    assert {name: watch.labels(name) for name in ("apps", "old", "new")} == {
        "apps": {"team": "b"},
        "old": None,
        "new": {"env": "dev"},
    }
    assert cluster.versions() == ["", "5", "8", "9"]
    assert cluster.queries[1] == {
        "watch": ["1"],
        "allowWatchBookmarks": ["true"],
        "timeoutSeconds": ["20"],
        "resourceVersion": ["5"],
    }
    assert cluster.pauses == []
    assert watch.fault is None


async def test_what_was_heard_counts_for_30_s() -> None:
    """Each list and each event counts from when it came, for 30 s; before the first one nothing does."""
    seen: list[tuple[bool, bool]] = []

    def at(now: float) -> Callable[[], None]:
        def look() -> None:
            watch, cluster.now = cluster.watch, now
            seen.append((watch.fresh(now), watch.fresh(now + 0.1)))

        return look

    cluster = Watched(listed("5"), [at(1030), bookmark("6"), at(1060)])
    assert not cluster.watch.fresh(cluster.now)
    await cluster.play()
    assert seen == [(True, False), (True, False)]


async def test_a_silent_watch_proves_nothing() -> None:
    """A watch that ends without a word does not count, and the namespaces are listed again."""
    cluster = Watched(
        listed("99", apps={}), [lambda: setattr(cluster, "now", 1020.0)], listed("7", apps={"team": "a"}), []
    )
    watch = await cluster.play()
    assert cluster.versions() == ["", "99", "", "7", ""]
    assert watch.labels("apps") == {"team": "a"}
    assert watch.fresh(1050)


async def test_a_lost_connection_goes_on_where_it_was() -> None:
    """A watch that breaks off after something was heard goes on from there, after a pause."""
    cluster = Watched(listed("5"), [event("ADDED", "6", "apps"), LOST], [bookmark("7")])
    watch = await cluster.play()
    assert cluster.versions() == ["", "5", "6", "7"]
    assert cluster.pauses == [0.25]
    assert watch.fault is None


async def test_a_connection_that_broke_off_in_silence_lists_again() -> None:
    """Where nothing was heard before it broke off, the list says at once how things are."""
    cluster = Watched(listed("5"), [LOST], listed("9", apps={}), [bookmark("9")])
    watch = await cluster.play()
    assert cluster.versions() == ["", "5", "", "9", "9"]
    assert watch.labels("apps") == {}


@pytest.mark.parametrize("gone", [[bookmark("6"), ended(410)], refused(410), [ended(410)]])
async def test_a_state_that_is_forgotten_is_listed_again(gone: Any) -> None:
    """A 410, at the beginning of a watch or within it, lists the namespaces again; what is gone is gone."""

    class Cluster(Watched):
        @asynccontextmanager
        async def lines(
            self, request: Request, attempt: Attempt, seconds: float
        ) -> AsyncIterator[AsyncIterator[bytes]]:
            if self.script and isinstance(self.script[0], Answer) and "watch" in request.path:
                await Connection.call(self, request, attempt)
            async with super().lines(request, attempt, seconds) as lines:
                yield lines

    cluster = Cluster(listed("5", old={}), gone, listed("9", apps={}), [bookmark("9")])
    watch = await cluster.play()
    assert cluster.versions() == ["", "5", "", "9", "9"]
    assert (watch.labels("old"), watch.labels("apps")) == (None, {})


async def test_pauses_grow_up_to_a_few_seconds_and_start_again() -> None:
    """Errors in a row are tried again after ever longer pauses, 4 s at the longest; a success begins anew."""
    cluster = Watched(*[LOST] * 7, listed("5"), LOST, listed("6"))
    await cluster.play()
    assert cluster.pauses == [0.25, 0.5, 1, 2, 4, 4, 4, 0.25]


async def test_pauses_differ() -> None:
    """Two processes do not try at the same moments: at least half of each pause is left."""
    cluster = Watched(LOST, LOST)
    cluster.watch = NamespaceWatch(cluster, lambda: 0, cluster.pause, lambda: 0.0)
    await cluster.play()
    assert cluster.pauses == [0.125, 0.25]


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b'{"type":"ADDED"}', b'{"type":"ADDED","object":{}}', ended(0)])
async def test_an_odd_line_ends_no_watch(line: bytes) -> None:
    """A line that cannot be read is a failure like another one."""
    watch = await Watched(listed("5"), [line], listed("6", apps={}), []).play()
    assert watch.labels("apps") == {}


async def test_a_defect_ends_no_watch() -> None:
    """Whatever is raised is logged, and the watch goes on."""
    with capture_logs() as logs:
        watch = await Watched(listed("5"), [ZeroDivisionError()], listed("6", apps={}), [bookmark("7")]).play()
    assert watch.labels("apps") == {}
    assert [entry["event"] for entry in logs] == ["namespaces_watch_defect"]


async def test_a_change_of_state_is_told_once() -> None:
    """That nothing is known any more is logged once, with why, and once that it is again."""
    refusal = Unavailable("KUBERNETES_UNREACHABLE", "Nobody is there.")
    cluster = Watched(refusal, refusal, listed("5"), [bookmark("6")], LOST)
    with capture_logs() as logs:
        watch = await cluster.play()
    assert logs == [
        {
            "event": "namespaces_unknown",
            "log_level": "warning",
            "config": "configs/default",
            "reason": "KUBERNETES_UNREACHABLE",
            "error": "Nobody is there.",
        },
        {"event": "namespaces_known_again", "log_level": "info", "config": "configs/default"},
    ]
    assert watch.fault is LOST


async def test_ready_is_when_it_was_tried() -> None:
    """Who waits is told as soon as the namespaces were read, or could not be, and by what."""
    for answer, fresh in ((listed("5"), True), (LOST, False)):
        cluster = Watched(answer)
        waiting = asyncio.create_task(cluster.watch.wait_ready())
        await asyncio.sleep(0)
        assert not waiting.done()
        await cluster.play()
        await waiting
        assert cluster.watch.fresh(cluster.now) == fresh
        assert (cluster.watch.fault is None) == fresh


# The watches of configs.


class Blocking(Watched):
    """A cluster whose watches never end by themselves."""

    def __init__(self) -> None:
        """It lists one namespace."""
        super().__init__(listed("5", apps={}))
        self.retired = False

    @asynccontextmanager
    async def lines(self, request: Request, attempt: Attempt, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Never anything."""
        del request, attempt, seconds
        await asyncio.Event().wait()
        yield  # type: ignore[misc]

    async def retire(self) -> None:
        """Remember it."""
        self.retired = True


async def test_each_config_has_one_watch() -> None:
    """A watch begins when it is first asked for, is another one for a changed config, and ends with its connection."""
    made: list[Blocking] = []

    def connect(_: Config) -> Connection:
        made.append(Blocking())
        return made[-1]

    watches = NamespaceWatches(connect, lambda: 0.0)
    before, after, other = config(), config(etag="e2"), config(name="configs/other")
    first = watches.of(before)
    await first.wait_ready()
    assert (watches.of(before) is first, first.labels("apps")) == (True, {})
    assert watches.of(other) is not first
    second = watches.of(after)
    assert second is not first
    await second.wait_ready()
    watches.forget("configs/other")
    watches.forget("configs/nothing")
    await watches.close()
    assert [cluster.retired for cluster in made] == [True, True, True]


async def test_a_config_that_cannot_be_used_keeps_its_watch() -> None:
    """Where a changed config cannot be connected, the error is its caller's, and nothing is left half begun."""
    cluster = Blocking()
    answers: list[Connection] = [cluster]

    def connect(_: Config) -> Connection:
        if not answers:
            raise LOST
        return answers.pop()

    watches = NamespaceWatches(connect, lambda: 0.0)
    first = watches.of(config())
    await first.wait_ready()
    with pytest.raises(Unavailable):
        watches.of(config(etag="e2"))
    assert watches.of(config()) is first
    await watches.close()
    assert cluster.retired


async def test_watches_that_nobody_needs_end() -> None:
    """A config that was changed, or is gone, is not called any more with what it had; the others go on."""
    made: list[Blocking] = []

    def connect(_: Config) -> Connection:
        made.append(Blocking())
        return made[-1]

    watches = NamespaceWatches(connect, lambda: 0.0)
    kept = [config(name=f"configs/{number}") for number in range(3)]
    for each in kept:
        await watches.of(each).wait_ready()
    watches.keep([kept[0], config(name="configs/1", etag="e2")])
    first = watches.of(kept[0])
    for _ in range(10):
        await asyncio.sleep(0)

    assert [cluster.retired for cluster in made] == [False, True, True]
    assert watches.of(kept[0]) is first
    await watches.close()


async def test_a_watch_without_end_is_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that goes on naming namespaces does not fill the memory: after so much all are listed anew."""
    monkeypatch.setattr(namespaces, "_MOST_BYTES", 300)
    many = [event("ADDED", str(number), f"made-up-{number}") for number in range(2, 10)]
    cluster = Watched(listed("1", apps={}), [*many], listed("11", apps={}), [bookmark("12")])

    watch = await cluster.play()

    assert cluster.versions()[:4] == ["", "1", "", "11"]
    assert (watch.labels("apps"), watch.labels("made-up-2")) == ({}, None)

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kubevend_server.audit.chain import Head
from kubevend_server.audit.log import AuditLog, Event
from kubevend_server.audit.verify import Report, verify
from kubevend_server.errors import AlreadyExists, KubevendError, Unavailable
from kubevend_server.journal import Entry, Journal, not_recorded, read_head
from kubevend_server.leases import Lease
from kubevend_server.store import leases
from kubevend_server.store.changes import rehearse
from kubevend_server.store.database import Database
from kubevend_server.store.schema import metadata
from tests.unit.builders import AUDIT_KEY, clock, lease


class Disk(AuditLog):
    """An audit log that counts its syncs, and fails where a test says so."""

    def __init__(self, path: Path) -> None:
        """Open the log."""
        super().__init__(path, AUDIT_KEY, Head(), clock)
        self.syncs = 0
        self.failing: set[str] = set()

    def _work(self, what: str) -> None:
        if what in self.failing:
            raise OSError(errno.EIO, "the test's disk fails")

    def sync(self) -> None:
        """Count."""
        self._work("sync")
        self.syncs += 1
        super().sync()

    def line(self, line: bytes) -> None:
        """Write half of it where it fails."""
        if "write" in self.failing:
            super().line(line[: len(line) // 2])
        self._work("write")
        super().line(line)

    def rewind(self, mark: tuple[int, Head]) -> None:
        """Take back."""
        self._work("rewind")
        super().rewind(mark)


@dataclass
class Scene:
    """A journal over a real database and a real file, with what was seen of them."""

    database: Database
    file: Path
    disk: Disk
    journal: Journal
    commits: list[str] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        """The audit log's lines."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def names(self) -> list[str]:
        """The `resource` of each line, and with what it ended."""
        return [f"{line['resource']} {line.get('reason', 'OK')}" for line in self.lines()]

    def leases(self) -> list[str]:
        """The names of the leases in the store."""
        return self.database.read_now(
            lambda c: list(c.scalars(sa.select(metadata.tables["leases"].c.name).order_by(sa.text("name"))))
        )

    def head(self) -> Head:
        """The head in the store."""
        return self.database.read_now(read_head)


ON_THE_LOOP, IN_A_THREAD = 3600.0, -1.0


@pytest.fixture(params=[ON_THE_LOOP, IN_A_THREAD], ids=["on the loop", "in a thread"])
def scene(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A journal whose transactions and syncs are counted, on a fast disk and on a slow one."""
    file = tmp_path / "journal.jsonl"
    disk = Disk(file)
    made = Scene(database, file, disk, Journal(database, disk, request.param))
    sa.event.listen(database.writer, "commit", lambda _: made.commits.append("commit"))
    sa.event.listen(database.writer, "rollback", lambda _: made.commits.append("rollback"))
    yield made
    disk.failing.clear()
    disk.close()


def entry(
    name: str,
    of: Lease | None = None,
    change: Callable[[sa.Connection], None] | None = None,
    committed: Callable[[], None] | None = None,
    *,
    announced: bool = False,
) -> Entry:
    """An entry whose event has its name, and with what it ended."""

    def event(refusal: KubevendError | None) -> Event:
        return {"resource": name, **({"reason": refusal.reason} if refusal else {})}

    rows = leases.rows(of) if of else ()
    return Entry(event, rows, change, committed, announced)


def _adds(of: Lease) -> Callable[[sa.Connection], None]:
    def change(connection: sa.Connection) -> None:
        for table, row in leases.rows(of):
            connection.execute(sa.insert(table).values(row))

    return change


def _refuses(connection: sa.Connection) -> None:
    _adds(lease(99))(connection)
    raise AlreadyExists("TAKEN", "It is taken.")


async def _all(scene: Scene, *entries: Entry) -> list[str]:
    results = await asyncio.gather(*(scene.journal.commit(e) for e in entries), return_exceptions=True)
    return [r.reason if isinstance(r, KubevendError) else repr(r) for r in results]


async def test_entries_that_wait_share_a_transaction_and_a_sync(scene: Scene) -> None:
    """Twenty calls that commit in one turn of the loop cost one transaction and one sync, each has its lease and its
    line, and the head that the store knows is the last line.
    """
    committed: list[int] = []
    entries = [entry(f"r{n}", lease(n), committed=lambda n=n: committed.append(n)) for n in range(20)]  # type: ignore[misc]
    assert await _all(scene, *entries) == ["None"] * 20
    assert (scene.disk.syncs, scene.commits) == (1, ["commit"])
    assert scene.names() == [f"r{n} OK" for n in range(20)]
    assert scene.leases() == [lease(n).name for n in range(20)]
    assert committed == list(range(20))
    last = scene.lines()[-1]
    assert scene.head() == scene.disk.head == Head(int(last["sequence"]), last["hash"])


async def test_entries_one_after_the_other_have_their_own(scene: Scene) -> None:
    """Calls that do not wait together each have their transaction and their sync, and the chain holds."""
    for n in range(3):
        await scene.journal.commit(entry(f"r{n}"))
    assert (scene.disk.syncs, scene.commits) == (3, ["commit"] * 3)
    assert verify(scene.file.read_bytes().splitlines(), AUDIT_KEY, scene.head()) == Report(lines=3)


async def test_a_group_waits_for_those_on_their_way(scene: Scene) -> None:
    """An entry waits for one that was announced before, and shares its sync; intents need no sync of their own."""
    await scene.journal.intend({"resource": "a", "stage": "STAGE_INTENT"})
    await scene.journal.intend({"resource": "b", "stage": "STAGE_INTENT"})
    assert scene.disk.syncs == 0
    first = asyncio.create_task(scene.journal.commit(entry("a", announced=True)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (first.done(), scene.disk.syncs) == (False, 0)
    await scene.journal.commit(entry("b", announced=True))
    await first
    assert (scene.disk.syncs, scene.names()) == (1, ["a OK", "b OK", "a OK", "b OK"])


async def test_a_group_does_not_wait_for_ever(scene: Scene) -> None:
    """One that is on its way and never comes holds the others up for milliseconds only."""
    await scene.journal.intend({"resource": "a", "stage": "STAGE_INTENT"})
    async with asyncio.timeout(2):
        await scene.journal.commit(entry("b"))
    assert scene.names() == ["a OK", "b OK"]


async def test_a_refused_change_fails_alone(scene: Scene) -> None:
    """A change that refuses is undone and its line says so; the others of its group are done."""
    called: list[str] = []
    results = await _all(
        scene,
        entry("one", change=_adds(lease(1)), committed=lambda: called.append("one")),
        entry("two", change=_refuses, committed=lambda: called.append("two")),
        entry("three", lease(3), committed=lambda: called.append("three")),
    )
    assert results == ["None", "TAKEN", "None"]
    assert scene.names() == ["one OK", "two TAKEN", "three OK"]
    assert scene.leases() == [lease(1).name, lease(3).name]
    assert called == ["one", "three"]
    assert (scene.disk.syncs, scene.commits) == (1, ["commit"])


@pytest.mark.parametrize("fails", ["sync", "write"])
async def test_a_disk_that_fails_refuses_all(scene: Scene, fails: str) -> None:
    """Where the audit file cannot be written or synced, every call of the group gets NOT_RECORDED, and neither a row
    nor a line is left; afterwards all goes on.
    """
    await scene.journal.commit(entry("before"))
    head = scene.head()
    scene.disk.failing = {fails}
    called: list[str] = []
    results = await _all(
        scene,
        entry("one", lease(1), committed=lambda: called.append("one")),
        entry("two", change=_adds(lease(2))),
        entry("three", change=_refuses),
    )
    assert results == ["NOT_RECORDED"] * 3
    assert (scene.names(), scene.leases(), called) == (["before OK"], [], [])
    assert scene.head() == scene.disk.head == head
    scene.disk.failing = set()
    await scene.journal.commit(entry("after", lease(4)))
    assert (scene.names(), scene.leases()) == (["before OK", "after OK"], [lease(4).name])
    assert verify(scene.file.read_bytes().splitlines(), AUDIT_KEY, scene.head()) == Report(lines=2)


async def test_a_disk_that_cannot_even_forget_refuses_all(scene: Scene) -> None:
    """Where the file cannot be cut back either, the calls are still answered: nobody waits for ever."""
    scene.disk.failing = {"sync", "rewind"}
    async with asyncio.timeout(2):
        assert await _all(scene, entry("one", lease(1)), entry("two")) == ["NOT_RECORDED"] * 2
    assert scene.leases() == []


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux seals files")
@pytest.mark.parametrize("fails", ["sync", "write"])
async def test_a_log_that_could_not_forget_goes_on_soundly(database: Database, fails: str) -> None:
    """Where `ftruncate` itself fails, lines that count for nothing stay; the chain still goes on after what is really
    in the file, so that the disk's bad hour does not look like a forgery for ever after.
    """
    # A file in memory that is sealed against shrinking takes writes, and refuses ftruncate as a failing disk does.
    descriptor = os.memfd_create("stuck", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    file = Path(f"/proc/self/fd/{descriptor}")
    disk = Disk(file)
    scene = Scene(database, file, disk, Journal(database, disk))
    await scene.journal.commit(entry("before"))
    disk.failing = {fails}
    assert await _all(scene, entry("one"), entry("two")) == ["NOT_RECORDED"] * 2
    disk.failing = set()
    await scene.journal.commit(entry("after"))
    await scene.journal.commit(entry("later"))
    disk.close()
    lines = os.pread(descriptor, 1 << 20, 0).splitlines()
    os.close(descriptor)
    assert verify(lines, AUDIT_KEY, scene.head()).faults == []


async def test_a_store_that_fails_leaves_true_lines(scene: Scene) -> None:
    """Where the store refuses to take a row, its call alone gets NOT_RECORDED, and its line says that it failed; the
    others of the group are committed, and the chain goes on.
    """
    with scene.database.writer.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON leases BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    scene.commits.clear()
    called: list[str] = []
    results = await _all(scene, entry("one", lease(1), committed=lambda: called.append("one")), entry("two"))
    assert results == ["NOT_RECORDED", "None"]
    assert [name.partition(" ")[0] for name in scene.names()] == ["one", "two"]
    assert scene.names()[0] == "one NOT_RECORDED"
    assert (scene.leases(), called, scene.commits) == ([], [], ["rollback", "rollback", "commit"])
    assert scene.head().sequence == 2
    with scene.database.writer.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER broken")
    await scene.journal.commit(entry("three", lease(3)))
    assert scene.names() == ["one NOT_RECORDED", "two OK", "three OK"]
    assert verify(scene.file.read_bytes().splitlines(), AUDIT_KEY, scene.head()) == Report(lines=3)


async def test_a_change_with_a_defect_fails_its_group(scene: Scene) -> None:
    """A change that raises what nobody foresaw leaves nothing, and nobody is told otherwise."""

    def broken(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT * FROM nowhere")

    assert await _all(scene, entry("one", change=broken), entry("two", lease(2))) == ["NOT_RECORDED"] * 2
    assert (scene.names(), scene.leases()) == (["one NOT_RECORDED", "two NOT_RECORDED"], [])


async def test_a_callback_with_a_defect_leaves_nobody_waiting(scene: Scene) -> None:
    """What follows a commit may go wrong in memory; the calls of the group are answered all the same."""

    def broken() -> None:
        raise KeyError("roles/gone")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    async with asyncio.timeout(2):
        results = await _all(scene, entry("one", lease(1), committed=broken), entry("two", lease(2)))
    assert results[1] == "None"
    assert scene.leases() == [lease(1).name, lease(2).name]


async def test_an_intent_that_cannot_be_written_stops_the_call(scene: Scene) -> None:
    """Without its intent nothing may be asked of Kubernetes, and half a line is taken back."""
    await scene.journal.commit(entry("before"))
    scene.disk.failing = {"write"}
    with pytest.raises(Unavailable) as refusal:
        await scene.journal.intend({"resource": "x", "stage": "STAGE_INTENT"})
    assert refusal.value.reason == "NOT_RECORDED"
    scene.disk.failing = set()
    await scene.journal.commit(entry("after"))
    assert scene.names() == ["before OK", "after OK"]
    assert verify(scene.file.read_bytes().splitlines(), AUDIT_KEY, scene.head()) == Report(lines=2)


async def test_an_intent_that_cannot_be_taken_back_stops_the_call_too(scene: Scene) -> None:
    """Where the file cannot be cut back either, the call is refused as not recorded, and not as a defect."""
    scene.disk.failing = {"write", "rewind"}
    with pytest.raises(Unavailable):
        await scene.journal.intend({"resource": "x", "stage": "STAGE_INTENT"})


async def test_an_intent_outlives_the_failure_of_its_completion(scene: Scene) -> None:
    """What was announced stays in the file although the group that follows cannot be recorded."""
    await scene.journal.intend({"resource": "x", "stage": "STAGE_INTENT"})
    scene.disk.failing = {"sync"}
    assert await _all(scene, entry("x", lease(1), announced=True)) == ["NOT_RECORDED"]
    assert scene.names() == ["x OK"]


async def test_a_caller_that_goes_away_disturbs_nobody(scene: Scene) -> None:
    """An entry whose caller no longer waits is made durable with the others."""
    gone = asyncio.create_task(scene.journal.commit(entry("gone", lease(1))))
    stays = asyncio.create_task(scene.journal.commit(entry("stays", lease(2))))
    asyncio.get_running_loop().call_soon(gone.cancel)
    await asyncio.wait({gone, stays})
    assert stays.exception() is None
    assert scene.leases() == [lease(1).name, lease(2).name]


async def test_a_rehearsal_changes_nothing(scene: Scene) -> None:
    """A change that is only rehearsed is undone, and refuses as it would in earnest."""
    assert await _all(
        scene,
        entry("rehearsed", change=rehearse(_adds(lease(1)), only=True)),
        entry("refused", change=rehearse(_refuses, only=True)),
        entry("done", change=rehearse(_adds(lease(2)), only=False)),
    ) == ["None", "TAKEN", "None"]
    assert scene.leases() == [lease(2).name]


async def test_a_lease_is_seen_by_a_change_of_its_group(scene: Scene) -> None:
    """A change that asks for live leases, as the deletion of a config does, sees those that become durable together
    with it: otherwise the config could go in the same commit that brings its first lease.
    """
    seen: list[int] = []

    def count(connection: sa.Connection) -> None:
        seen.append(leases.last_end(connection, "configs/default", clock())[0])

    await _all(scene, entry("delete", change=count), entry("issue", lease(1)))
    assert seen == [1]


def test_the_first_start_has_no_head(database: Database) -> None:
    """A store that knows no line has the head of an empty log."""
    assert database.read_now(read_head) == Head()


def test_a_refusal_tells_what_to_do() -> None:
    """NOT_RECORDED is UNAVAILABLE, and says that nothing was handed out."""
    assert (not_recorded().status, not_recorded().reason) == ("UNAVAILABLE", "NOT_RECORDED")


class SlowDisk(Disk):
    """A disk whose syncs take until the test lets them end."""

    def __init__(self, path: Path) -> None:
        """Open the log."""
        super().__init__(path)
        self.began, self.may_end = threading.Event(), threading.Event()

    def sync(self) -> None:
        """Wait."""
        self.began.set()
        assert self.may_end.wait(30)
        super().sync()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_slow_disk_stops_nobody_but_those_who_write(database: Database, tmp_path: Path, *, fails: bool) -> None:
    """While a disk syncs, the event loop goes on; what would be written next waits, so that the lines of a group that
    fails are still the last of the file and can be taken back.
    """
    disk = SlowDisk(tmp_path / "slow.jsonl")
    slow = Scene(database, tmp_path / "slow.jsonl", disk, Journal(database, disk, IN_A_THREAD))
    first = asyncio.create_task(_all(slow, entry("one", lease(1))))
    await asyncio.to_thread(disk.began.wait, 30)
    intent = asyncio.create_task(slow.journal.intend({"resource": "x", "stage": "STAGE_INTENT"}))
    second = asyncio.create_task(_all(slow, entry("two", lease(2))))
    for _ in range(10):
        await asyncio.sleep(0)
    held = (first.done(), intent.done(), second.done(), slow.names())

    disk.failing = {"sync"} if fails else set()
    disk.may_end.set()
    await intent
    results = [await first, await second]

    assert held == (False, False, False, ["one OK"])
    outcome = "NOT_RECORDED" if fails else "None"
    assert results == [[outcome], [outcome]]
    assert slow.names() == (["x OK"] if fails else ["one OK", "x OK", "two OK"])
    assert slow.leases() == ([] if fails else [lease(1).name, lease(2).name])
    disk.failing = set()
    await slow.journal.close()


async def test_a_lock_of_somebody_else_stops_nobody(database: Database, tmp_path: Path) -> None:
    """Where another process has the store locked, a group waits for that in a thread, and the event loop goes on."""
    disk = Disk(tmp_path / "locked.jsonl")
    locked = Scene(database, tmp_path / "locked.jsonl", disk, Journal(database, disk, ON_THE_LOOP))
    somebody = sqlite3.connect(str(database.writer.url.database), isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    call = asyncio.create_task(_all(locked, entry("one", lease(1))))
    for _ in range(10):
        await asyncio.sleep(0)
    held = (call.done(), locked.names())

    somebody.execute("ROLLBACK")
    somebody.close()

    assert held == (False, [])
    assert await call == ["None"]
    assert locked.leases() == [lease(1).name]
    await locked.journal.close()


async def test_a_change_of_the_servers_own_waits_its_turn(database: Database, tmp_path: Path) -> None:
    """What the server changes by itself, and the opening of a new audit file, come between groups, not into one."""
    disk = SlowDisk(tmp_path / "turns.jsonl")
    turns = Scene(database, tmp_path / "turns.jsonl", disk, Journal(database, disk, IN_A_THREAD))
    first = asyncio.create_task(_all(turns, entry("one", lease(1))))
    await asyncio.to_thread(disk.began.wait, 30)
    change = asyncio.create_task(turns.journal.change(_adds(lease(2))))
    reopened = asyncio.create_task(turns.journal.reopen())
    for _ in range(10):
        await asyncio.sleep(0)
    held = (change.done(), reopened.done())
    (tmp_path / "turns.jsonl").rename(tmp_path / "moved.jsonl")

    disk.may_end.set()
    await asyncio.gather(first, change, reopened)

    assert held == (False, False)
    assert turns.leases() == [lease(1).name, lease(2).name]
    await turns.journal.close()


async def test_a_group_that_is_due_while_a_thread_writes(database: Database, tmp_path: Path) -> None:
    """A group whose time comes while a change of the server's own waits in a thread for somebody's lock waits too: the
    two share a connection.
    """
    disk = Disk(tmp_path / "due.jsonl")
    due = Scene(database, tmp_path / "due.jsonl", disk, Journal(database, disk, ON_THE_LOOP))
    # Somebody is on the way, so the group is given its few milliseconds.
    await due.journal.intend({"resource": "x", "stage": "STAGE_INTENT"})
    group = asyncio.create_task(_all(due, entry("one", lease(1))))
    await asyncio.sleep(0)
    somebody = sqlite3.connect(str(database.writer.url.database), isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    change = asyncio.create_task(due.journal.change(_adds(lease(2))))
    for _ in range(100):
        await asyncio.sleep(0.0001)
    held = (change.done(), group.done(), due.names())

    somebody.execute("ROLLBACK")
    somebody.close()

    await change
    assert await group == ["None"]
    assert held == (False, False, ["x OK"])
    assert due.leases() == [lease(1).name, lease(2).name]
    await due.journal.close()

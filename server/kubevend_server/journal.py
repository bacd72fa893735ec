"""The journal: what was done and that it was done, made durable together, before the answer leaves.

All calls that are waiting share one transaction of the store and one sync of the audit file. In this order:

1. the changes go into the open transaction (one that refuses does so alone, and its event says it),
2. the events go to the audit file, and the file is synced,
3. the transaction commits, with the head of the audit chain in it.

A group closes as soon as nobody is on the way to it any more, and at the latest after `_GATHER_SECONDS_EACH` for each
who is, `_GATHER_SECONDS` in all: one caller alone never waits, few wait little, and many share the price of a sync.

So what the store knows is always in the audit file. A crash between 2 and 3 leaves events beyond the head, whose
answers never left.

While the disk is fast, all of it runs on the event loop's thread, which costs nothing but the disk. A slow disk, or
a store that somebody else has locked, would stop every call for as long: then a group runs in a thread of its own.
Nothing else is written meanwhile, so that the lines of a group that fails are still the last of the file, and can be
taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from kubevend_server.audit.chain import Head
from kubevend_server.audit.log import AuditLog, Event
from kubevend_server.errors import Aborted, KubevendError, Unavailable
from kubevend_server.store import objects as object_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.changes import Change, Fence
from kubevend_server.store.configs import moved_configs
from kubevend_server.store.database import Database, is_locked
from kubevend_server.store.leases import lease_ended
from kubevend_server.store.schema import audit_head, leases, objects, requests, tokens

_GATHER_SECONDS = 0.004
_GATHER_SECONDS_EACH = 0.0005
_SLOW_SECONDS = 0.002
_PATIENCE_SECONDS = 10.0
_REQUEST_PAUSE = timedelta(seconds=1)

_log = structlog.get_logger()


# Made once: a statement that is made anew for each group costs more than its rows.
_INSERTS = {**{table: sa.insert(table) for table in (leases, objects, tokens)}, requests: request_store.INSERT}
_UPDATE_HEAD = (
    sa.update(audit_head)
    .where(audit_head.c.replica == sa.bindparam("head_replica"))
    .values(sequence=sa.bindparam("head_sequence"), hash=sa.bindparam("head_hash"))
)

T = TypeVar("T")

DEFAULT_REPLICA = "main"
"""The name of the process that has a store for itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one call leaves behind.

    Attributes:
        event: makes the audit event; its argument is the error that came up while it was recorded, or None. It may make
            none.
        rows: new rows that only their fence can refuse, by table.
        change: a change that can be refused: it raises a KubevendError.
        committed: called once it is durable.
        announced: whether `intend` or `announce` was called for it before.
        fence: what must still hold for the rows, looked up for a whole group at once.
    """

    event: Callable[[KubevendError | None], Event | None]
    rows: Sequence[tuple[sa.Table, dict[str, object]]] = ()
    change: Change | None = None
    committed: Callable[[], None] | None = None
    announced: bool = False
    fence: Fence | None = None


Waiting = tuple[Entry, "asyncio.Future[None]"]
"""An entry, and the future of the call that waits for it."""

Refusals = list[KubevendError | None]
"""For each entry of a group what became of it; None where it is durable."""


class Journal:
    """Commits entries in groups, one group at a time. To be used on the event loop's thread only."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        slow: float = _SLOW_SECONDS,
        replica: str = DEFAULT_REPLICA,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """Take what it writes to.

        Args:
            database: the store.
            audit: the audit log; nobody else may write to it.
            slow: seconds; after a group that took longer, the next one runs in a thread.
            replica: whose log it is, among the processes that share the store.
            patience: seconds; how long what runs in the thread waits for another process's lock on the store.
        """
        self._database = database
        self._audit = audit
        self._replica = replica
        self._slow = slow
        self._patience = patience
        self._took = 0.0
        self._waiting: list[Waiting] = []
        self._on_the_way = 0
        self._closing: asyncio.Handle | None = None
        self._thread = ThreadPoolExecutor(1, "journal")
        self._idle = asyncio.Event()
        self._idle.set()
        database.set_patience(0)

    async def intend(self, event: Event, *, announced: bool = False) -> None:
        """Write down, without a sync, what is about to be asked of Kubernetes. An announced entry must follow.

        Args:
            event: the audit event.
            announced: one was announced before, of the same call.

        Raises:
            Unavailable: it could not be written, so it must not be asked.
        """
        await self._take_turn()
        mark = self._audit.mark()
        try:
            self._audit.append(event)
        except OSError as error:
            self._rewind(mark)
            _log.error("intent_not_recorded", error=str(error))
            raise not_recorded() from error
        if not announced:
            self.announce()

    def announce(self) -> None:
        """An entry will come soon, marked as announced: what comes before it may wait a moment to share its group."""
        self._on_the_way += 1

    async def commit(self, entry: Entry) -> None:
        """Make an entry durable, together with all others that are waiting.

        Raises:
            KubevendError: the entry's own change was refused; the event that says so is durable.
            Unavailable: nothing of it could be recorded.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if entry.announced:
            self._on_the_way -= 1
        self._schedule()
        await done

    async def change(self, change: Callable[[sa.Connection], T]) -> T:
        """Make a change of the server's own, which no call asked for and no event tells.

        Raises:
            KubevendError: the change was refused.
            sqlalchemy.exc.SQLAlchemyError: the store did not take it.
        """
        await self._take_turn()
        try:
            return self._change_now(change)
        except sa.exc.OperationalError as error:
            if not is_locked(error):
                raise
        # Somebody else writes to the store just now: that is waited for where it stops nobody.
        self._idle.clear()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._change_in_thread, change)
        work.add_done_callback(lambda _: self._go_on())
        return await asyncio.shield(work)

    def _change_now(self, change: Callable[[sa.Connection], T]) -> T:
        with self._database.writer.begin() as connection:
            return change(connection)

    def _change_in_thread(self, change: Callable[[sa.Connection], T]) -> T:
        self._database.set_patience(self._patience)
        try:
            return self._change_now(change)
        finally:
            self._database.set_patience(0)

    async def reopen(self) -> None:
        """Open the audit file by its name again, after it was moved away."""
        await self._take_turn()
        self._audit.reopen()

    async def close(self) -> None:
        """Wait for what is being written, then close the audit file."""
        await self._take_turn()
        self._thread.shutdown()
        self._audit.close()

    async def _take_turn(self) -> None:
        """Wait until no thread is writing; what follows without another await has store and file for itself."""
        while not self._idle.is_set():
            await self._idle.wait()

    def _schedule(self) -> None:
        if not self._idle.is_set():
            return  # the group that is being written sees to it
        loop = asyncio.get_running_loop()
        if self._closing is None:
            gather = min(_GATHER_SECONDS, self._on_the_way * _GATHER_SECONDS_EACH)
            self._closing = loop.call_later(gather, self._flush)
        if not self._on_the_way:
            self._closing.cancel()
            # Everything else that is ready in this turn of the loop still joins the group.
            self._closing = loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._closing = None
        if not self._idle.is_set():
            return  # since this was scheduled a thread has begun to write, and sees to it when it is done
        waiting, self._waiting = self._waiting, []
        entries = [entry for entry, _ in waiting]
        if self._took <= self._slow:
            try:
                refusals = self._record(entries, patient=False)
            except sa.exc.OperationalError:
                _log.info("store_locked", hint="somebody else writes to it; the group waits for that in a thread")
            else:
                _settle_all(waiting, refusals)
                return
        self._idle.clear()
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._record_in_thread, entries)
        work.add_done_callback(lambda done: self._finish(waiting, done))

    def _finish(self, waiting: Sequence[Waiting], work: asyncio.Future[Refusals]) -> None:
        try:
            refusals = work.result()
        except Exception:  # noqa: BLE001 - answers of a whole group hang on it
            _log.exception("not_recorded", entries=len(waiting))
            refusals = [not_recorded() for _ in waiting]
        _settle_all(waiting, refusals)
        self._go_on()

    def _go_on(self) -> None:
        # Whoever waits for its turn goes before the next group, which may be long.
        self._idle.set()
        if self._waiting:
            self._schedule()

    def _record_in_thread(self, entries: Sequence[Entry]) -> Refusals:
        """Record a group where waiting stops nobody, for somebody else's lock on the store too."""
        self._database.set_patience(self._patience)
        try:
            return self._record(entries, patient=True)
        finally:
            self._database.set_patience(0)

    def _record(self, entries: Sequence[Entry], *, patient: bool) -> Refusals:
        started = time.monotonic()
        try:
            return self._commit(entries)
        except (OSError, sa.exc.OperationalError) as error:
            if is_locked(error) and not patient:
                raise
            # The disk is full or fails, or the store is locked: nothing is durable, for none of them.
            _log.exception("not_recorded", entries=len(entries))
            return self._refuse(entries)
        except Exception:  # noqa: BLE001 - answers of a whole group hang on it, so every kind must end here
            _log.exception("not_recorded_together", entries=len(entries))
            return [self._commit_alone(entry) for entry in entries]
        finally:
            self._took = time.monotonic() - started

    def _commit_alone(self, entry: Entry) -> KubevendError | None:
        """After a group has failed over something in an entry: what is wrong with one is not the others' fault."""
        try:
            return self._commit([entry])[0]
        except Exception:  # noqa: BLE001 - as for the group
            _log.exception("not_recorded", entries=1)
            return self._refuse([entry])[0]

    def _refuse(self, entries: Sequence[Entry]) -> Refusals:
        self._record_failure(entries)
        return [not_recorded() for _ in entries]

    def _commit(self, entries: Sequence[Entry]) -> Refusals:
        mark = self._audit.mark()
        try:
            with self._database.writer.begin() as connection:
                refusals = _fenced_off(connection, entries)
                # Leases first: a change that asks whether some live must see those of its own group.
                _insert(connection, [e for e, refusal in zip(entries, refusals, strict=True) if refusal is None])
                refusals = [
                    refusal or _apply(connection, entry.change)
                    for entry, refusal in zip(entries, refusals, strict=True)
                ]
                self._write(entries, refusals)
                self._save_head(connection)
        except Exception:
            self._rewind(mark)
            raise
        return refusals

    def _rewind(self, mark: tuple[int, Head]) -> None:
        try:
            self._audit.rewind(mark)
        except OSError as error:
            # The lines stay, beyond the head of the chain; the calls are refused all the same.
            _log.error("audit_log_not_rewound", error=str(error))

    def _write(self, entries: Sequence[Entry], refusals: Sequence[KubevendError | None]) -> None:
        for entry, refusal in zip(entries, refusals, strict=True):
            event = entry.event(refusal)
            if event is not None:
                self._audit.append(event)
        self._audit.sync()

    def _save_head(self, connection: sa.Connection) -> None:
        head = self._audit.head
        values = {"head_replica": self._replica, "head_sequence": head.sequence, "head_hash": head.hash}
        if connection.execute(_UPDATE_HEAD, values).rowcount == 0:
            row = {"replica": self._replica, "sequence": head.sequence, "hash": head.hash}
            connection.execute(sa.insert(audit_head).values(row))

    def _record_failure(self, entries: Sequence[Entry]) -> None:
        """Try to leave true events where the store failed but the audit file may still take lines."""
        mark = self._audit.mark()
        try:
            self._write(entries, [not_recorded() for _ in entries])
        except Exception:  # noqa: BLE001 - the calls are refused already; the log is the last place to say it
            self._rewind(mark)
            _log.exception("failure_not_recorded", entries=len(entries))


def _settle_all(waiting: Sequence[Waiting], refusals: Refusals) -> None:
    for (entry, done), refusal in zip(waiting, refusals, strict=True):
        _settle(entry, done, refusal)


def _settle(entry: Entry, done: asyncio.Future[None], refusal: KubevendError | None) -> None:
    """Tell a call how its entry fared. A defect in what follows the commit is that call's alone."""
    problem: Exception | None = refusal
    if refusal is None and entry.committed is not None:
        try:
            entry.committed()
        except Exception as defect:  # noqa: BLE001 - it goes to the call that it belongs to
            problem = defect
    if done.done():
        return
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)


def not_recorded() -> Unavailable:
    """The refusal of a call whose lease or audit event could not be made durable."""
    return Unavailable(
        "NOT_RECORDED",
        "The lease or the audit event could not be written, so nothing was handed out. Try again; if it persists, the "
        "server's operator finds the cause in its log (a full or failing disk, most often).",
    )


def request_in_progress(request_id: str) -> Aborted:
    """The refusal of a call while another one with its request id is under way."""
    return Aborted(
        "REQUEST_ID_IN_PROGRESS",
        f"Another call with request_id {request_id} is under way. Send this one again in a moment: it gets a token of "
        "the same lease then.",
        metadata={"request_id": request_id},
        retry_after=_REQUEST_PAUSE,
    )


def read_head(connection: sa.Connection, replica: str = DEFAULT_REPLICA) -> Head:
    """The last line of a replica's audit log that the store knows to be on the disk."""
    query = sa.select(audit_head.c.sequence, audit_head.c.hash).where(audit_head.c.replica == replica)
    row = connection.execute(query).one_or_none()
    return Head() if row is None else Head(row.sequence, row.hash)


def _fenced_off(connection: sa.Connection, entries: Sequence[Entry]) -> Refusals:
    """For each entry the refusal where what its lease stands on no longer holds, else None."""
    fences = [entry.fence for entry in entries if entry.fence is not None]
    anchors = {fence.anchor for fence in fences if fence.anchor}
    gone = object_store.not_live(connection, anchors) if anchors else set()
    clusters = {fence.config for fence in fences if fence.config is not None}
    moved = moved_configs(connection, clusters) if clusters else {}
    claims = [fence.claim for fence in fences if fence.claim is not None]
    lost = request_store.lost(connection, claims) if claims else set()

    def refusal(fence: Fence | None) -> KubevendError | None:
        if fence is None:
            return None
        if fence.anchor in gone:
            return lease_ended(fence.lease)
        if fence.claim is not None and fence.lease in lost:
            return request_in_progress(fence.claim.id)
        return moved.get(fence.config) if fence.config is not None else None

    return [refusal(entry.fence) for entry in entries]


def _apply(connection: sa.Connection, change: Change | None) -> KubevendError | None:
    if change is None:
        return None
    try:
        with connection.begin_nested():
            change(connection)
    except KubevendError as refusal:
        return refusal
    return None


def _insert(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    by_table: dict[sa.Table, list[dict[str, Any]]] = {}
    for entry in entries:
        for table, row in entry.rows:
            by_table.setdefault(table, []).append(row)
    for table, rows in by_table.items():
        connection.execute(_INSERTS[table], rows)

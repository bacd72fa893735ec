"""The journal: what was done and that it was done, made durable together, before the answer leaves.

All calls that are waiting share one transaction of the store and one sync of the audit file. In this order:

1. the changes go into the open transaction (one that refuses does so alone, and its event says it),
2. the events go to the audit file, and the file is synced,
3. the transaction commits, with the head of the audit chain in it.

A group closes as soon as nobody is on the way to it any more, and at the latest after `_GATHER_SECONDS`: one caller
alone never waits, and many share the price of a sync.

So what the store knows is always in the audit file. A crash between 2 and 3 leaves events beyond the head, whose
answers never left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from kubevend_server.audit.chain import Head
from kubevend_server.audit.log import AuditLog, Event
from kubevend_server.errors import KubevendError, Unavailable
from kubevend_server.store.changes import Change
from kubevend_server.store.schema import audit_head, leases, tokens

_GATHER_SECONDS = 0.004

_log = structlog.get_logger()


# Made once: a statement that is made anew for each group costs more than its rows.
_INSERTS = {table: sa.insert(table) for table in (leases, tokens)}
_UPDATE_HEAD = sa.update(audit_head).values(sequence=sa.bindparam("head_sequence"), hash=sa.bindparam("head_hash"))


@dataclass(frozen=True, slots=True)
class Entry:
    """What one call leaves behind.

    Attributes:
        event: makes the audit event; its argument is the error that came up while it was recorded, or None.
        rows: new rows that cannot be refused, by table.
        change: a change that can be: it raises a KubevendError.
        committed: called once it is durable.
        announced: whether `intend` was called for it before.
    """

    event: Callable[[KubevendError | None], Event]
    rows: Sequence[tuple[sa.Table, dict[str, object]]] = ()
    change: Change | None = None
    committed: Callable[[], None] | None = None
    announced: bool = False


class Journal:
    """Commits entries in groups, on the event loop's thread.

    So no lock is needed, and an intent can be written between two groups. While a disk syncs, everything else waits: a
    disk that takes milliseconds wants a thread for the sync and the commit (`docs/performance.md` has the figures).
    """

    def __init__(self, engine: sa.Engine, audit: AuditLog) -> None:
        self._engine = engine
        self._audit = audit
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._on_the_way = 0
        self._closing: asyncio.Handle | None = None

    def intend(self, event: Event) -> None:
        """Write down, without a sync, what is about to be asked of Kubernetes. An announced entry must follow.

        Raises:
            Unavailable: it could not be written, so it must not be asked.
        """
        mark = self._audit.mark()
        try:
            self._audit.append(event)
        except OSError as error:
            self._rewind(mark)
            _log.error("intent_not_recorded", error=str(error))
            raise not_recorded() from error
        self._on_the_way += 1

    async def commit(self, entry: Entry) -> None:
        """Make an entry durable, together with all others that are waiting.

        Raises:
            KubevendError: the entry's own change was refused; the event that says so is durable.
            Unavailable: nothing of it could be recorded.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((entry, done))
        if entry.announced:
            self._on_the_way -= 1
        if self._closing is None:
            self._closing = loop.call_later(_GATHER_SECONDS, self._flush)
        if not self._on_the_way:
            self._closing.cancel()
            # Everything else that is ready in this turn of the loop still joins the group.
            self._closing = loop.call_soon(self._flush)
        await done

    def _flush(self) -> None:
        waiting, self._waiting, self._closing = self._waiting, [], None
        entries = [entry for entry, _ in waiting]
        try:
            refusals = self._commit(entries)
        except (OSError, sa.exc.OperationalError):
            # The disk is full or fails, or the store is locked: nothing is durable, for none of them.
            _log.exception("not_recorded", entries=len(entries))
            refusals = self._refuse(entries)
        except Exception:  # noqa: BLE001 - answers of a whole group hang on it, so every kind must end here
            _log.exception("not_recorded_together", entries=len(entries))
            refusals = [self._commit_alone(entry) for entry in entries]
        for (entry, done), refusal in zip(waiting, refusals, strict=True):
            _settle(entry, done, refusal)

    def _commit_alone(self, entry: Entry) -> KubevendError | None:
        """After a group has failed over something in an entry: what is wrong with one is not the others' fault."""
        try:
            return self._commit([entry])[0]
        except Exception:  # noqa: BLE001 - as for the group
            _log.exception("not_recorded", entries=1)
            return self._refuse([entry])[0]

    def _refuse(self, entries: Sequence[Entry]) -> list[KubevendError | None]:
        self._record_failure(entries)
        return [not_recorded() for _ in entries]

    def _commit(self, entries: Sequence[Entry]) -> list[KubevendError | None]:
        mark = self._audit.mark()
        try:
            with self._engine.begin() as connection:
                # Leases first: a change that asks whether some live must see those of its own group.
                _insert(connection, entries)
                refusals = [_apply(connection, entry.change) for entry in entries]
                self._write(entries, refusals)
                _save_head(connection, self._audit.head)
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
            self._audit.append(entry.event(refusal))
        self._audit.sync()

    def _record_failure(self, entries: Sequence[Entry]) -> None:
        """Try to leave true events where the store failed but the audit file may still take lines."""
        mark = self._audit.mark()
        try:
            self._write(entries, [not_recorded() for _ in entries])
        except Exception:  # noqa: BLE001 - the calls are refused already; the log is the last place to say it
            self._rewind(mark)
            _log.exception("failure_not_recorded", entries=len(entries))


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


def read_head(connection: sa.Connection) -> Head:
    """The last line of the audit log that the store knows to be on the disk."""
    row = connection.execute(sa.select(audit_head.c.sequence, audit_head.c.hash)).one_or_none()
    return Head() if row is None else Head(row.sequence, row.hash)


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


def _save_head(connection: sa.Connection, head: Head) -> None:
    values = {"head_sequence": head.sequence, "head_hash": head.hash}
    if connection.execute(_UPDATE_HEAD, values).rowcount == 0:
        connection.execute(sa.insert(audit_head).values(id=1, sequence=head.sequence, hash=head.hash))

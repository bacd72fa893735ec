"""A store with very many leases, as long use leaves it: written with SQLite alone, since kubevend would take hours."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from kubevend_server.names import new_id

RARE, COMMON = "rare", "common"
CONFIGS = {COMMON: "configs/default", RARE: "configs/rare"}
ROLES = {COMMON: "roles/common", RARE: "roles/rare"}
CALLERS = {COMMON: "kubernetes://prod/ci/common", RARE: "kubernetes://prod/ci/rare"}
NAMESPACES = {COMMON: "common", RARE: "rare"}
SERVICE_ACCOUNTS = {COMMON: "deployer", RARE: "rare"}
"""For each filter a value that very many leases have, and one that hardly any has."""

SPAN = timedelta(days=25)
"""Over which the leases were granted; shorter than the default retention, so that a server that starts purges none."""

_BATCH = 20_000
_ACTIVE = 0.05
_HOUR = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATER = timedelta(hours=2)
_OTHER = "other/1"

Row = tuple[object, ...]

_LEASE = (
    "name, role, config, caller, namespace, service_account, audiences, create_time, expire_time, state, revocation, "
    "cluster_wide, anchor, owner, ends_as, end_cause, end_time"
)
_OBJECT = (
    "id, config, kind, namespace, name, lease, scope, uid, state, create_time, attempts, next_attempt_time, reason, "
    "message"
)
_TOKEN = "lease, jti, kubernetes_audit_id, issue_time, expire_time"


@dataclass(frozen=True)
class _Made:
    """The rows of some leases."""

    leases: list[Row]
    tokens: list[Row]
    objects: list[Row]


def fill(file: Path, count: int, now: datetime, seed: int = 5) -> None:
    """Write leases, their tokens and their objects into a store that has all tables.

    One in twenty is ACTIVE, a thousandth REVOKING, some PENDING, the rest has ended. Half of all went through one role,
    two in five to one caller; of each kind of value there is one that seven leases have, which are ACTIVE.
    """
    rows = _rows(count, now, random.Random(seed))  # noqa: S311 - no secret
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        indexes = _drop_indexes(connection)
        connection.execute("BEGIN")
        while batch := list(islice(rows, _BATCH)):
            made = _Made(*(list(part) for part in zip(*batch, strict=True)))
            _insert(connection, "leases", _LEASE, made.leases)
            _insert(connection, "tokens", _TOKEN, [row for row in made.tokens if row])
            _insert(connection, "objects", _OBJECT, [row for row in made.objects if row])
        _insert(connection, "objects", _OBJECT, list(_shared_anchors(now)))
        # Another process, which issues what is PENDING; while it lives, nobody cleans up after it.
        _insert(connection, "replicas", "name, process, seen_time", [("other", _OTHER, micros(now + _LATER))])
        connection.execute("COMMIT")
        for statement in indexes:
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def micros(moment: datetime) -> int:
    """A moment as the store has it."""
    return (moment - _EPOCH) // _MICROSECOND


def _drop_indexes(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX {name}")
    return [sql for _, sql in found]


def _insert(connection: sqlite3.Connection, table: str, columns: str, rows: list[Row]) -> None:
    marks = ", ".join("?" for _ in columns.split(", "))
    connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608 - ours


def _rows(count: int, now: datetime, chance: random.Random) -> Iterator[tuple[Row, Row, Row]]:
    """For each lease, the oldest first, its row, that of its token and that of its object, which may be empty."""
    rare = set(chance.sample(range(count), 7))
    for number in range(count):
        granted = now - SPAN * (1 - number / count) - timedelta(milliseconds=1)
        yield _one(granted, now, chance, rare=number in rare, newest=number > count * (1 - 0.8 * _ACTIVE))


def _one(granted: datetime, now: datetime, chance: random.Random, *, rare: bool, newest: bool) -> tuple[Row, Row, Row]:
    name = f"leases/{new_id(granted)}"
    state, expires = _life(granted, now, chance, newest=newest or rare)
    revocation = "NONE" if rare else chance.choices(("NONE", "PER_LEASE", "PER_CALLER", "PER_ROLE"), (5, 2, 2, 1))[0]
    if state in ("PENDING", "REVOKING"):
        revocation = "PER_LEASE"
    role, caller, config, namespace, account = _values(chance, rare=rare)
    made = _object(name, config, namespace, state, granted, now) if revocation == "PER_LEASE" else ()
    anchor = str(made[0]) if made else _ANCHORS[revocation] if state == "ACTIVE" and revocation in _ANCHORS else ""
    ended = state not in ("PENDING", "ACTIVE", "REVOKING")
    lease = (
        name,
        role,
        config,
        caller,
        namespace,
        account,
        '["https://kubernetes.default.svc"]',
        micros(granted),
        micros(expires),
        state,
        revocation,
        0,
        anchor,
        _OTHER if state == "PENDING" else "",
        "REVOKED" if state == "REVOKING" else "",
        "revoked by admin://local/bootstrap" if state in ("REVOKED", "REVOKING") else "",
        micros(min(expires, now)) if ended else None,
    )
    if state in ("PENDING", "FAILED"):
        return lease, (), made
    identity = f"{chance.getrandbits(128):032x}"
    return lease, (name, identity, identity[::-1], micros(granted), micros(expires)), made


def _life(granted: datetime, now: datetime, chance: random.Random, *, newest: bool) -> tuple[str, datetime]:
    expires = granted + chance.choice((_HOUR / 6, _HOUR, _HOUR, 12 * _HOUR))
    # Some of all ages live very long.
    if newest or chance.random() < 0.2 * _ACTIVE:
        return "ACTIVE", max(expires, now + _LATER) + timedelta(seconds=chance.randrange(30 * 86400))
    if expires > now:
        expires = now - timedelta(seconds=1)
    state = chance.choices(
        ("EXPIRED", "REVOKED", "FAILED", "REVOKING", "PENDING"), (0.925, 0.053, 0.0209, 0.001, 0.00002)
    )[0]
    return state, expires


def _values(chance: random.Random, *, rare: bool) -> tuple[str, str, str, str, str]:
    if rare:
        return tuple(values[RARE] for values in (ROLES, CALLERS, CONFIGS, NAMESPACES, SERVICE_ACCOUNTS))  # type: ignore[return-value]
    number = int(chance.paretovariate(0.5)) % 2000
    return (
        ROLES[COMMON] if chance.random() < 0.5 else f"roles/team-{number % 200}",
        CALLERS[COMMON] if chance.random() < 0.4 else f"kubernetes://prod/ci/runner-{number}",
        CONFIGS[COMMON] if chance.random() < 0.9 else f"configs/c{number % 5}",
        NAMESPACES[COMMON] if chance.random() < 0.3 else f"ns-{number % 300}",
        SERVICE_ACCOUNTS[COMMON] if chance.random() < 0.3 else f"sa-{number % 100}",
    )


def _object(lease: str, config: str, namespace: str, state: str, granted: datetime, now: datetime) -> Row:
    if state not in ("PENDING", "ACTIVE", "REVOKING"):
        return ()
    new = new_id(granted)
    failed = state == "REVOKING"
    why = ("HELD", "A finalizer holds it.") if failed else ("", "")
    return (
        new,
        config,
        "Secret",
        namespace,
        f"kubevend-{new}",
        lease,
        "",
        "" if state == "PENDING" else new,
        "DELETING" if failed else "LIVE",
        micros(granted),
        int(failed),
        # Not within the time of a measurement.
        micros(now + _LATER) if failed else None,
        *why,
    )


_ANCHORS = {"PER_CALLER": "0" * 25 + "1", "PER_ROLE": "0" * 25 + "2"}


def _shared_anchors(now: datetime) -> Iterator[Row]:
    for scope, anchor in _ANCHORS.items():
        where = (CONFIGS[COMMON], "Secret", NAMESPACES[COMMON], f"kubevend-{anchor}")
        yield (anchor, *where, "", scope, anchor, "LIVE", micros(now), 0, None, "", "")

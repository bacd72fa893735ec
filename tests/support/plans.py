"""How SQLite goes about the statements that a piece of code makes: `EXPLAIN QUERY PLAN`, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa


def plans(engine: sa.Engine, work: Callable[[sa.Connection], object]) -> list[tuple[str, list[str]]]:
    """Do something in a transaction that is rolled back, and explain each statement of it.

    Args:
        engine: the database's engine.
        work: what makes statements on its connection.

    Returns:
        Each statement with the steps of its plan, such as `SEARCH leases USING INDEX leases_role (role=?)`.
    """
    seen: list[tuple[str, Any]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            seen.append((statement, parameters[0] if many else parameters))

    with engine.connect() as connection, connection.begin() as transaction:
        sa.event.listen(connection, "before_cursor_execute", note)
        try:
            work(connection)
        finally:
            sa.event.remove(connection, "before_cursor_execute", note)
        explained = [(statement, _explain(connection, statement, parameters)) for statement, parameters in seen]
        transaction.rollback()
    return explained


def _explain(connection: sa.Connection, statement: str, parameters: Any) -> list[str]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [str(row[3]) for row in rows]

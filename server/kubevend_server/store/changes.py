"""Changes to the store: made by services, committed by the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

Change = Callable[[sa.Connection], None]
"""Makes a change in an open transaction, or refuses it with a KubevendError."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The anchor that a new lease stands on: if that is not to live any more, the lease is refused."""

    anchor: str
    lease: str


def rehearse(change: Change, *, only: bool) -> Change:
    """Make a change that is undone at once where a request says `validate_only`.

    Args:
        change: the change.
        only: whether to undo it.
    """
    if not only:
        return change

    def rehearsal(connection: sa.Connection) -> None:
        with connection.begin_nested() as savepoint:
            change(connection)
            savepoint.rollback()

    return rehearsal

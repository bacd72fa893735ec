"""Changes to the store: made by services, committed by the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from kubevend_server.configs import Config
from kubevend_server.store.requests import Claim

Change = Callable[[sa.Connection], None]
"""Makes a change in an open transaction, or refuses it with a KubevendError."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What a new lease stands on; if that no longer holds, the lease is refused.

    Attributes:
        lease: the lease's name.
        anchor: the id of an anchor that must be to live on; empty for none.
        config: a config that must still be that of the same cluster; None for none.
        claim: its hold on a request id, which nobody else may have by now; None for none.
    """

    lease: str
    anchor: str = ""
    config: Config | None = None
    claim: Claim | None = None


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

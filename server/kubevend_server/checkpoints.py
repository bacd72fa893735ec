"""Named places on the way of a lease, at which a test can let the process die or the cluster go away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Checkpoint = Callable[[str], Awaitable[None]]
"""Told the name of each place when it is reached, before anything else is done."""


async def pass_by(_place: str) -> None:
    """What a real server does there: nothing."""


PLACES = (
    "issue.intended",
    "issue.pending",
    "issue.made.Secret",
    "issue.made.Role",
    "issue.made.RoleBinding",
    "issue.made.ClusterRole",
    "issue.made.ClusterRoleBinding",
    "issue.made.ServiceAccount",
    "issue.minted",
    "call.recorded",
    "revoke.intended",
    "revoke.marked",
    "expire.found",
    "expire.marked",
    "remove.claimed",
    "remove.deleted",
    "remove.recorded",
)
"""All of them, in the order of a lease's life."""

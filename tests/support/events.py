"""What tests compare of audit events."""

from __future__ import annotations

from typing import Any

_VARYING = ("sequence", "time", "requestId", "source", "userAgent", "duration", "previousHash", "hash")


def steady(event: dict[str, Any]) -> dict[str, Any]:
    """A completion's event without what differs from run to run; each of those must be there."""
    assert all(event.get(key) for key in _VARYING)
    return {key: value for key, value in event.items() if key not in _VARYING}

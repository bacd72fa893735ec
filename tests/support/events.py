"""What tests compare of audit events."""

from __future__ import annotations

from typing import Any

_VARYING = ("sequence", "time", "requestId", "source", "userAgent", "previousHash", "hash")


def steady(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what differs from run to run; each of those must be there."""
    varying = (*_VARYING, "duration") if event["stage"] == "STAGE_COMPLETE" else _VARYING
    assert all(event.get(key) for key in varying)
    return {key: value for key, value in event.items() if key not in varying}

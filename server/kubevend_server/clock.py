"""The time of day, passed in wherever it is needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Answers the present moment, in UTC, with its time zone set."""


def utc_now() -> datetime:
    """The machine's own clock."""
    return datetime.now(UTC)

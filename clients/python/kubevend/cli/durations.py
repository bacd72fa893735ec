"""Lifetimes as people write them: `90s`, `30m`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

_PARTS = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class Lifetime(click.ParamType[timedelta]):
    """A lifetime in whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        found = _PARTS.fullmatch(value) if isinstance(value, str) and value else None
        if found is None:
            self.fail(f"{value!r} is no lifetime: write 600s, 30m or 1h30m", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)


LIFETIME = Lifetime()

"""Warnings: what a caller should know although the call succeeded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the API's own word, and nothing here issues Python's warnings
    """Something that came out otherwise than asked: `reason` for programs, `message` for people."""

    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()

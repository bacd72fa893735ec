"""What others say (a cluster, an issuer, a label), made fit to be shown: it may be anything, and any amount of it."""

from __future__ import annotations

LONGEST_ID = 128
"""In characters, of a token's `jti`: Kubernetes makes a UUID."""


def shown(text: str, most: int) -> str:
    r"""A text of at most so many characters, all of which can be printed.

    What cannot (ends of lines, escape sequences, marks that turn the way of writing) stands there as Python writes it:
    `\n`, `\x1b`, `\u202e`.
    """
    start = text[:most]
    if start.isprintable():
        return start
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in start)[:most]


def is_plain(text: str, most: int) -> bool:
    """Whether `shown` would change nothing."""
    return len(text) <= most and text.isprintable()

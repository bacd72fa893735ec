"""How the lines of the audit log hang together.

Each line is a JSON object that ends in `,"hash":"{HMAC-SHA-256}"}`. The hash is over the line without that member,
and the line names the hash of the one before (`previousHash`), so that no line can be changed, left out or put in
between without the key.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass

import msgspec

NO_HASH = "0" * 64
"""`previousHash` of the first line of a log."""

_LINE = re.compile(rb'(.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Head:
    """A place in the chain: a line's sequence number and its hash."""

    sequence: int = 0
    hash: str = NO_HASH


@dataclass(frozen=True, slots=True)
class Link:
    """What a line says of its place in the chain."""

    sequence: int
    previous_hash: str
    hash: str

    @property
    def head(self) -> Head:
        """The chain up to and with this line."""
        return Head(self.sequence, self.hash)


class BrokenLine(ValueError):
    """Bytes that are no line of this log: torn, changed, or written without the key."""


class _Place(msgspec.Struct):
    sequence: str
    previousHash: str  # noqa: N815 - the name in proto JSON


def close_line(body: bytes, key: bytes) -> tuple[bytes, str]:
    """Put the hash on a line.

    Args:
        body: the JSON object, `sequence` and `previousHash` included, without a hash.
        key: the audit key.

    Returns:
        The whole line with its newline, and the hash.
    """
    digest = hmac.digest(key, body, "sha256").hex()
    return b'%b,"hash":"%b"}\n' % (body[:-1], digest.encode()), digest


def read_line(line: bytes, key: bytes) -> Link:
    """Check a line, without its newline, and tell its place.

    Raises:
        BrokenLine: it is torn, was changed, or was written under another key.
    """
    found = _LINE.fullmatch(line)
    body = found[1] + b"}" if found else b""
    if not found or not hmac.compare_digest(hmac.digest(key, body, "sha256").hex().encode(), found[2]):
        raise BrokenLine("the line is torn, was changed, or was written under another key")
    place = msgspec.json.decode(body, type=_Place)
    return Link(int(place.sequence), place.previousHash, found[2].decode())

"""The Status object, in which an API server says why it refuses.

See https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/.
"""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What comes of JSON that is none, is of another type, or nests deeply."""


class Cause(msgspec.Struct):
    """Why, for programs: `NamespaceTerminating`."""

    reason: str = ""


class Details(msgspec.Struct):
    """What it is about: the kind in the plural, `serviceaccounts`; of a conflict, mostly as it is, `Secret`."""

    kind: str = ""
    causes: list[Cause] = []


class Status(msgspec.Struct):
    """What an API server says where it refuses; the parts that kubevend reads.

    Attributes:
        status: `Failure`; of a deletion that was done, `Success`.
        reason: for programs: `AlreadyExists`.
        message: for people.
        details: what it is about.
    """

    kind: str
    status: str = ""
    reason: str = ""
    message: str = ""
    details: Details = msgspec.field(default_factory=Details)


def parse_status(body: bytes) -> Status | None:
    """What an answer says, or None where it is no Status object."""
    try:
        found = msgspec.json.decode(body, type=Status)
    except UNREADABLE:
        return None
    return found if found.kind == "Status" else None

"""The JSON of an answer, read as a type."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kubevend_server.cluster.failures import Attempt, unreadable
from kubevend_server.cluster.status import UNREADABLE

_Type = TypeVar("_Type", bound=msgspec.Struct)


def decode(body: bytes, type_: type[_Type], attempt: Attempt) -> _Type:
    """Read the body of a success.

    Raises:
        KubevendError: it is not what Kubernetes answers; what was to be minted may have been all the same.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except UNREADABLE as error:
        raise unreadable(attempt) from error

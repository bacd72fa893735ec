"""What an API server says of itself: its version and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from kubevend_server.cluster import failures
from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.status import parse_status
from kubevend_server.text import shown

_LONGEST_VERSION = 64


@dataclass(frozen=True, slots=True)
class Said:
    """What an API server says of itself.

    Attributes:
        version: as `v1.37.2`; empty where it does not tell strangers.
        time: to the second; None where it does not say.
    """

    version: str
    time: datetime | None


async def read_version(connection: Connection) -> Said:
    """Ask an API server for its version, which most tell anyone.

    Raises:
        KubevendError: it cannot be reached, is not trusted, or is no API server.
    """
    attempt = connection.attempt("its version")
    answer = await connection.get("/version", attempt)
    time = _date(answer.headers.get("Date", ""))
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and parse_status(answer.body):
        return Said("", time)
    if answer.status != HTTPStatus.OK:
        raise failures.from_status(answer.status, answer.headers, answer.body, attempt)
    return Said(shown(decode(answer.body, _Version, attempt).gitVersion, _LONGEST_VERSION), time)


def _date(header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class _Version(msgspec.Struct):
    gitVersion: str  # noqa: N815 - Kubernetes' name

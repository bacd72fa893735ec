"""Between protos and the domain's own types."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kubevend.v1 import warning_pb2
from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.warning import Warning


def written(message: Message) -> dict[str, Any]:
    """A request in proto JSON, for its audit event.

    Raises:
        InvalidArgument: it holds what proto JSON cannot: a moment or a duration beyond protobuf's bounds, or a
            field mask that is not in snake_case.
    """
    try:
        return json_format.MessageToDict(message)
    except (json_format.Error, ValueError, OverflowError) as error:
        raise InvalidArgument(
            "FIELD_INVALID", f"The request has a value that protobuf does not allow: {error}"
        ) from error


def duration(message: Message, field: str, path: str = "") -> timedelta | None:
    """A duration field, in whole seconds, or None where it is not set.

    Args:
        message: the message that has it.
        field: its name.
        path: its path from the request, where that is another one.

    Raises:
        InvalidArgument: it has a fraction of a second, which Kubernetes' lifetimes do not.
    """
    if not message.HasField(field):
        return None
    value: Duration = getattr(message, field)
    # The rule of the field cannot say this: CEL can, but takes 3 us for a duration and fails at one of 10^15 s.
    if value.nanos:
        fault = Violation(path or field, "must be whole seconds, in which Kubernetes counts lifetimes: 3600s")
        raise InvalidArgument("FIELD_INVALID", f"{fault.field} {fault.description}.", violations=[fault])
    return timedelta(seconds=value.seconds)


def set_duration(target: Duration, value: timedelta) -> None:
    """Write a duration."""
    target.FromTimedelta(value)


def set_timestamp(target: Timestamp, value: datetime | None) -> None:
    """Write a moment; None leaves the field as it is."""
    if value is not None:
        target.FromDatetime(value)


def moment(message: Message, field: str) -> datetime | None:
    """A timestamp field, or None where it is not set.

    Raises:
        InvalidArgument: it is beyond the bounds of protobuf's Timestamp.
    """
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            "FIELD_INVALID",
            f"{field} is no moment between the years 1 and 9999.",
            violations=[Violation(field, "a moment between the years 1 and 9999")],
        ) from error


def warnings(found: Iterable[Warning]) -> list[warning_pb2.Warning]:
    """Warnings as the API has them."""
    return [warning_pb2.Warning(reason=w.reason, message=w.message, metadata=dict(w.metadata)) for w in found]

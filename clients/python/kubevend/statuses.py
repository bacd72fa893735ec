"""A gRPC status with its details, taken apart: https://google.aip.dev/193."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from kubevend.errors import KubevendError, Violation, kind_of

_DETAILS_KEY = "grpc-status-details-bin"

Detail = TypeVar("Detail", bound=Message)


def to_error(code: str, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> KubevendError:
    """The error for a call that failed.

    Args:
        code: the name of its status.
        message: its text.
        trailers: its trailing metadata.
    """
    status = _status(trailers)
    info = _detail(status, error_details_pb2.ErrorInfo())
    retry = _detail(status, error_details_pb2.RetryInfo())
    broken = _detail(status, error_details_pb2.BadRequest()).field_violations
    return kind_of(code)(
        status.message or message,
        code=code,
        reason=info.reason,
        metadata=info.metadata,
        violations=[Violation(v.field, v.description) for v in broken],
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        request_id=_detail(status, error_details_pb2.RequestInfo()).request_id,
    )


def _status(trailers: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return status_pb2.Status()  # a proxy's own; code and message are there all the same
    return status


def _detail(status: status_pb2.Status, empty: Detail) -> Detail:
    for packed in status.details:
        if packed.Is(empty.DESCRIPTOR):
            packed.Unpack(empty)
    return empty

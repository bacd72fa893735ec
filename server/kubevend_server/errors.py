"""Every error that a caller can see, and how it goes on the wire.

A class is a gRPC status; a `reason` in UPPER_SNAKE tells its cases apart. Nothing else in the server turns an
error into a status. See https://google.aip.dev/193.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "kubevend.dev"

_LONGEST_MESSAGE = 2000
"""gRPC sends an error in trailers, of which clients take 8 KiB; a request must not make it longer."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its rule: its path from the request, and what it should be."""

    field: str
    description: str


class KubevendError(Exception):
    """The root of the errors that a caller can see.

    Attributes:
        reason: what happened, for programs, in UPPER_SNAKE.
        message: what happened and what to do, for people. Never holds a secret.
        metadata: the facts in the message, by name.
        violations: the fields at fault, for `InvalidArgument`.
        retry_after: when to try again, where that is known.
    """

    code: ClassVar[int] = code_pb2.UNKNOWN

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "…"
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    @property
    def status(self) -> str:
        """The name of the gRPC status, as `PERMISSION_DENIED`."""
        name: str = code_pb2.Code.Name(self.code)
        return name


class InvalidArgument(KubevendError):
    """The request is wrong in itself, whatever the state of the server."""

    code = code_pb2.INVALID_ARGUMENT


class Unauthenticated(KubevendError):
    """Nobody knows who is calling."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(KubevendError):
    """The caller is known, and may not do this."""

    code = code_pb2.PERMISSION_DENIED


class NotFound(KubevendError):
    """No such resource, or none that the caller may see."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(KubevendError):
    """The name is taken."""

    code = code_pb2.ALREADY_EXISTS


class Aborted(KubevendError):
    """Somebody else changed the resource in the meantime."""

    code = code_pb2.ABORTED


class FailedPrecondition(KubevendError):
    """Something else must be put right first; trying again alone does not help."""

    code = code_pb2.FAILED_PRECONDITION


class ResourceExhausted(KubevendError):
    """Too much at once; `retry_after` says when to come again."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Unavailable(KubevendError):
    """It cannot be done just now; trying again may help. Nothing was handed out."""

    code = code_pb2.UNAVAILABLE


class OutcomeUnknown(KubevendError):
    """A request was sent to Kubernetes and no answer came: whether it was done, nobody can tell."""

    code = code_pb2.UNKNOWN


class Internal(KubevendError):
    """A defect of kubevend's own. The cause is in the process log, never on the wire."""

    code = code_pb2.INTERNAL


def to_status(error: KubevendError, request_id: str) -> status_pb2.Status:
    """Put an error into the form in which it goes on the wire.

    Args:
        error: the error.
        request_id: under which id the audit log has the call.

    Returns:
        The status, with `ErrorInfo` and `RequestInfo` always, `BadRequest`, `PreconditionFailure` and
        `RetryInfo` where they apply.
    """
    status = status_pb2.Status(code=error.code, message=error.message)
    for detail in _details(error, request_id):
        status.details.add().Pack(detail)
    return status


def _details(error: KubevendError, request_id: str) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if isinstance(error, FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.metadata.get("subject", ""), description=error.message
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        details.append(retry)
    return details

"""Every error that a caller can see, and how it goes on the wire.

A class is a gRPC status; a `reason` in UPPER_SNAKE tells its cases apart. Nothing else in the server turns an
error into a status. See https://google.aip.dev/193.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from kubevend_server.redaction import redact

DOMAIN = "kubevend.dev"

_LONGEST_MESSAGE = 2000
"""In characters, so that a request cannot make it, and its line in the audit log, any longer."""

# gRPC sends an error in trailers, of which clients take 8 KiB in all: what is more reaches nobody, and the caller gets
# RESOURCE_EXHAUSTED in its place. All in bytes on the wire, but for the facts.
_MOST_ON_THE_WIRE = 7900
_MOST_OF_THE_MESSAGE = 1500
_MOST_OF_THE_FACTS = 2400
_MOST_OF_A_PATH = 400
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its rule: its path from the request, and what it should be."""

    field: str
    description: str


class KubevendError(Exception):
    """The root of the errors that a caller can see.

    Attributes:
        reason: what happened, for programs, in UPPER_SNAKE.
        message: what happened and what to do, for people. What has the form of a credential is taken out of it, and
            out of all that follows.
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
        message = redact(message)
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "…"
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {name: redact(fact) for name, fact in (metadata or {}).items()}
        self.violations = tuple(Violation(redact(v.field), redact(v.description)) for v in violations)
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


class OverLimit(ResourceExhausted):
    """The caller asks for more than the settings allow. Such refusals are summed up in the audit log (`refusals.py`).

    Attributes:
        subject: whose calls are summed up, as text.
        others: as of any error.
    """

    def __init__(self, reason: str, message: str, *, subject: str = "", **others: Any) -> None:
        super().__init__(reason, message, **others)
        self.subject = subject


class DeadlineExceeded(KubevendError):
    """It takes longer than a call may."""

    code = code_pb2.DEADLINE_EXCEEDED


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
    """Put an error into the form in which it goes on the wire, small enough to arrive.

    Args:
        error: the error.
        request_id: under which id the audit log has the call.

    Returns:
        The status, with `ErrorInfo` and `RequestInfo` always, `BadRequest`, `PreconditionFailure` and
        `RetryInfo` where they apply and have room; of the violations, as many as have. What is too long is cut and
        ends in `…`.
    """
    message = _cut(error.message, _MOST_OF_THE_MESSAGE, _percent_encoded)
    status = status_pb2.Status(code=error.code, message=message)
    most = _MOST_OF_THE_FACTS // max(1, len(error.metadata))
    facts = {key: _cut(fact, most, _encoded) for key, fact in error.metadata.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))
    _add(status, error_details_pb2.RequestInfo(request_id=request_id))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        _add(status, retry)
    if isinstance(error, FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=facts.get("subject", ""), description=message
        )
        _add(status, error_details_pb2.PreconditionFailure(violations=[violation]))
    fields = [
        error_details_pb2.BadRequest.FieldViolation(
            field=_cut(v.field, _MOST_OF_A_PATH, _encoded), description=_cut(v.description, _MOST_OF_A_PATH, _encoded)
        )
        for v in error.violations
    ]
    while fields and not _add(status, error_details_pb2.BadRequest(field_violations=fields)):
        fields.pop()
    return status


def _add(status: status_pb2.Status, detail: Message) -> bool:
    """Add a detail if there is room for it."""
    packed = Packed()
    packed.Pack(detail)
    # In base64, and with the few bytes by which the status names its next detail.
    size = (status.ByteSize() + packed.ByteSize() + 4) * 4 // 3
    if _percent_encoded(status.message) + size > _MOST_ON_THE_WIRE:
        return False
    status.details.append(packed)
    return True


def _cut(text: str, most: int, size: Callable[[str], int]) -> str:
    if size(text) <= most:
        return text
    left = most - size("…")
    for place, character in enumerate(text):
        left -= size(character)
        if left < 0:
            return text[:place] + "…"
    return text


def _encoded(text: str) -> int:
    return len(text.encode())


def _percent_encoded(text: str) -> int:
    """The size of a status message on the wire.

    See https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses.
    """
    return len(quote(text, safe=_PLAIN))

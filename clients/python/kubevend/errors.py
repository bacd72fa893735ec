"""What can go wrong, as Python sees it. To name these errors, gRPC need not be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its rule: its path from the request, and what it should be."""

    field: str
    description: str


class KubevendError(Exception):
    """A call failed, or was refused.

    Attributes:
        code: the name of the gRPC status, as `PERMISSION_DENIED`; `CLIENT` where no server had a say.
        reason: what happened, for programs, in UPPER_SNAKE: docs/errors.md lists them. Empty where whoever answered was
            not kubevend.
        message: what happened and what to do, for people.
        metadata: the facts in the message, by name.
        violations: the fields at fault.
        retry_after: when to try again, where that was said.
        request_id: under which id kubevend's audit log has the call. Empty where it never got there.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"


class ClientError(KubevendError):
    """Something on this side is wrong: settings, a file, or the use of what was closed. No server was asked."""

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message, code="CLIENT", reason=reason)


class Denied(KubevendError):
    """PERMISSION_DENIED: kubevend knows who calls, and does not allow it."""


class Unauthenticated(KubevendError):
    """UNAUTHENTICATED: kubevend does not accept the credential."""


class NotFound(KubevendError):
    """NOT_FOUND: there is no such thing, or none that the caller may see."""


class Unavailable(KubevendError):
    """UNAVAILABLE: not just now. Trying again may help."""


class DeadlineExceeded(KubevendError):
    """DEADLINE_EXCEEDED: it did not come in time."""


_KINDS: dict[str, type[KubevendError]] = {
    "PERMISSION_DENIED": Denied,
    "UNAUTHENTICATED": Unauthenticated,
    "NOT_FOUND": NotFound,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def kind_of(code: str) -> type[KubevendError]:
    """The class for a gRPC status, by its name."""
    return _KINDS.get(code, KubevendError)

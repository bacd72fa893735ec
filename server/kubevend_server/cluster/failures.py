"""What Kubernetes' failures mean to a caller of kubevend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from kubevend_server.errors import (
    Aborted,
    FailedPrecondition,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)

_LONGEST_MESSAGE = 1000
_DEFAULT_RETRY = timedelta(seconds=1)
_SECONDS = re.compile("[0-9]{1,5}")
_IDENTITY = re.compile(r'User "([^"]*)" cannot')


class Redirected(aiohttp.ClientError):
    """The server answered with a redirect."""


class Unauthorized(FailedPrecondition):
    """The cluster does not accept kubevend's own credential."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was asked of which cluster, for the words of an error.

    Attributes:
        host: the API server's URL.
        what: the request in words, as `a token for ServiceAccount ns/name`.
        namespace: the namespace that it is in, or empty.
        name: the object's name, or empty.
        right: what must be granted where it is forbidden, in words.
        audit_id: under which id Kubernetes' audit log has the request.
    """

    host: str
    what: str
    namespace: str = ""
    name: str = ""
    right: str = ""
    audit_id: str = ""

    def facts(self, **more: str) -> dict[str, str]:
        """The facts for `ErrorInfo.metadata`."""
        facts = {"host": self.host, "namespace": self.namespace, "name": self.name, **more}
        return {"subject": self.host, **{key: value for key, value in facts.items() if value}}


def from_status(  # noqa: PLR0911 - one return for each status that means something of its own
    status: int, headers: Any, body: bytes, attempt: Attempt
) -> KubevendError:
    """The error for an answer of the API server that is no success.

    Args:
        status: the HTTP status, 300 or more.
        headers: the answer's headers.
        body: usually a Status object (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/).
        attempt: what was asked.
    """
    said = _message(body)
    facts = attempt.facts(http_status=str(status), kubernetes_message=said)
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthorized(
            "KUBERNETES_UNAUTHORIZED",
            f"{attempt.host} does not accept kubevend's own credential: it has expired, or is of another cluster. Give "
            "the config a valid one.",
            metadata=facts,
        )
    if status == HTTPStatus.FORBIDDEN:
        return _forbidden(said, attempt, facts)
    if status == HTTPStatus.NOT_FOUND and attempt.name:
        return FailedPrecondition(
            "KUBERNETES_NOT_FOUND",
            f"{attempt.host} has no ServiceAccount {attempt.name!r} in namespace {attempt.namespace!r} "
            f"({said}): create "
            "it, or name another one.",
            metadata=facts,
        )
    if status == HTTPStatus.CONFLICT:
        return Aborted(
            "KUBERNETES_CONFLICT",
            f"{attempt.host} refused {attempt.what}: {said}. Try again.",
            metadata=facts,
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ResourceExhausted(
            "KUBERNETES_THROTTLED",
            f"{attempt.host} throttles ({said}). Try again later; kubevend itself holds nothing back.",
            metadata=facts,
            retry_after=_retry_after(headers),
        )
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return _unknown(attempt, f"it answered 504: {said}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(
            "KUBERNETES_UNAVAILABLE",
            f"{attempt.host} failed with {status} at {attempt.what}: {said}. Try again.",
            metadata=facts,
            retry_after=_retry_after(headers),
        )
    return FailedPrecondition(
        "KUBERNETES_REJECTED", f"{attempt.host} rejected {attempt.what} with {status}: {said}", metadata=facts
    )


def from_exception(  # noqa: PLR0911 - one return for each kind of failure
    error: Exception, attempt: Attempt
) -> KubevendError:
    """The error for a request that got no answer.

    Args:
        error: an aiohttp error, a TimeoutError, or the UnicodeError of a host name that no resolver takes.
        attempt: what was asked.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = error.certificate_error
        return Unavailable(
            "KUBERNETES_UNTRUSTED",
            f"The certificate of {attempt.host} is not trusted ({why}). Set kubernetes_ca_cert of the "
            "config to the CA that "
            "signed it, and kubernetes_host to a name that is in it.",
            metadata=attempt.facts(),
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unreachable(attempt, str(error.os_error or error))
    if isinstance(error, UnicodeError):
        return _unreachable(attempt, "it is not a name that can be looked up")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _unreachable(attempt, "no connection in time (or all connections were busy, see max_connections)")
    if isinstance(error, TimeoutError):
        return _unknown(attempt, "no answer came in time")
    if isinstance(error, Redirected):
        return _unknown(attempt, "it redirects elsewhere, which is not followed; is it the API server itself?")
    return _unknown(attempt, f"the connection was lost ({type(error).__name__})")


def unreadable(attempt: Attempt) -> KubevendError:
    """The error for a success whose body is not what Kubernetes answers."""
    return _unknown(attempt, "its answer could not be read; is it a Kubernetes API server?")


def _forbidden(said: str, attempt: Attempt, facts: dict[str, str]) -> KubevendError:
    found = _IDENTITY.search(said)
    identity = found.group(1) if found else "kubevend's identity"
    return FailedPrecondition(
        "KUBERNETES_FORBIDDEN",
        f"{attempt.host} does not let {identity} ask for {attempt.what}. {attempt.right} Kubernetes said: {said}",
        metadata={**facts, "identity": identity},
    )


def _unreachable(attempt: Attempt, why: str) -> KubevendError:
    return Unavailable(
        "KUBERNETES_UNREACHABLE",
        f"{attempt.host} cannot be reached: {why}. Check kubernetes_host of the config, the network and "
        "the API server.",
        metadata=attempt.facts(),
    )


def _unknown(attempt: Attempt, why: str) -> KubevendError:
    return OutcomeUnknown(
        "OUTCOME_UNKNOWN",
        f"{attempt.host} was asked for {attempt.what}, and {why}. Whether it was done, Kubernetes' audit "
        "log tells under "
        f"auditID {attempt.audit_id}; nobody has what it may have issued. Try again.",
        metadata=attempt.facts(kubernetes_audit_id=attempt.audit_id),
    )


class _Status(msgspec.Struct):
    message: str = ""


def _message(body: bytes) -> str:
    try:
        # gRPC's trailers have room for 8 KiB, and this stands in the message and in two details.
        return msgspec.json.decode(body, type=_Status).message[:_LONGEST_MESSAGE] or "no message"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "an answer that is not Kubernetes' own"


def _retry_after(headers: Any) -> timedelta:
    value = str(headers.get("Retry-After", ""))
    return timedelta(seconds=int(value)) if _SECONDS.fullmatch(value) else _DEFAULT_RETRY

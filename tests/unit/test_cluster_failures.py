from __future__ import annotations

import json
import re
import ssl
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from kubevend_server.cluster.connection import Connection, Endpoint, Transport
from kubevend_server.cluster.credentials import StaticToken
from kubevend_server.cluster.failures import Attempt, Unauthorized, from_exception, from_status, unreadable
from kubevend_server.errors import (
    Aborted,
    FailedPrecondition,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)

HOST = "https://10.0.0.1:6443"
ATTEMPT = Attempt(
    host=HOST,
    what="a token for ServiceAccount apps/deployer",
    namespace="apps",
    name="deployer",
    right="Bind it.",
    audit_id="audit-1",
)
FACTS = {"subject": HOST, "host": HOST, "namespace": "apps", "name": "deployer"}

KNOWN: dict[int, tuple[type[KubevendError], str]] = {
    400: (FailedPrecondition, "KUBERNETES_REJECTED"),
    401: (Unauthorized, "KUBERNETES_UNAUTHORIZED"),
    403: (FailedPrecondition, "KUBERNETES_FORBIDDEN"),
    404: (FailedPrecondition, "KUBERNETES_NOT_FOUND"),
    405: (FailedPrecondition, "KUBERNETES_REJECTED"),
    409: (Aborted, "KUBERNETES_CONFLICT"),
    413: (FailedPrecondition, "KUBERNETES_REJECTED"),
    415: (FailedPrecondition, "KUBERNETES_REJECTED"),
    422: (FailedPrecondition, "KUBERNETES_REJECTED"),
    429: (ResourceExhausted, "KUBERNETES_THROTTLED"),
    500: (Unavailable, "KUBERNETES_UNAVAILABLE"),
    502: (Unavailable, "KUBERNETES_UNAVAILABLE"),
    503: (Unavailable, "KUBERNETES_UNAVAILABLE"),
    504: (OutcomeUnknown, "OUTCOME_UNKNOWN"),
}


def _status(status: int, body: bytes = b'{"message":"said"}', **headers: str) -> KubevendError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return from_status(status, CIMultiDict(named), body, ATTEMPT)


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_is_one_of_our_errors(status: int) -> None:
    """Whatever the API server answers becomes an error with the reason of that status, which says what the cluster
    said, where, and under which id the outcome can be found where nobody knows it.
    """
    error = _status(status)
    rest = (Unavailable, "KUBERNETES_UNAVAILABLE") if status >= 500 else (FailedPrecondition, "KUBERNETES_REJECTED")
    assert (type(error), error.reason) == KNOWN.get(status, rest)
    assert "said" in error.message or status == 401
    assert HOST in error.message
    if error.reason == "OUTCOME_UNKNOWN":
        assert error.metadata == {**FACTS, "kubernetes_audit_id": "audit-1"}
    else:
        expected = {**FACTS, "http_status": str(status), "kubernetes_message": "said"}
        assert error.metadata == ({**expected, "identity": "kubevend's identity"} if status == 403 else expected)


def test_a_missing_right_names_identity_and_remedy() -> None:
    """A 403 says who was refused what, and what to grant."""
    said = (
        'serviceaccounts "deployer" is forbidden: User "system:serviceaccount:kubevend:kubevend" cannot create '
        'resource "serviceaccounts/token" in API group "" in the namespace "apps"'
    )
    error = _status(403, json.dumps({"message": said}).encode())
    assert error.message == (
        f"{HOST} does not let system:serviceaccount:kubevend:kubevend ask for a token for ServiceAccount "
        f"apps/deployer. Bind it. Kubernetes said: {said}"
    )
    assert error.metadata["identity"] == "system:serviceaccount:kubevend:kubevend"


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("value", "delay"), [("7", 7), ("", 1), ("soon", 1), ("0", 0)])
def test_a_delay_is_passed_on(status: int, value: str, delay: int) -> None:
    """Where the cluster says when to come again, the caller is told, else to wait a second."""
    assert _status(status, Retry_After=value).retry_after == timedelta(seconds=delay)


@given(st.integers(400, 599), st.binary(max_size=60), st.text(max_size=30))
def test_no_answer_is_too_odd(status: int, body: bytes, retry_after: str) -> None:
    """Whatever stands in body and headers of a failure, it becomes one of our errors."""
    assert isinstance(_status(status, body, Retry_After=retry_after), KubevendError)


@pytest.mark.parametrize("retry_after", ["²", "9" * 30, "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_an_odd_delay_is_no_delay(retry_after: str) -> None:
    """A Retry-After that is no sensible number of seconds becomes the usual one."""
    assert _status(429, Retry_After=retry_after).retry_after == timedelta(seconds=1)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"text"', b'{"message":null}', b'{"message":5}', b"\xff\xfe", b"{"]
)
def test_a_body_that_is_not_kubernetes_own_is_told(body: bytes) -> None:
    """A failure whose body is no Status says so."""
    said = _status(502, body).metadata["kubernetes_message"]
    assert said == "an answer that is not Kubernetes' own"


def test_an_empty_message_is_told() -> None:
    """A Status without a message says so."""
    assert _status(500, b"{}").metadata["kubernetes_message"] == "no message"


KEY = ConnectionKey("10.0.0.1", 6443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
REFUSED = OSError(111, "refused")
REQUEST = RequestInfo(URL(HOST), "POST", CIMultiDictProxy(CIMultiDict()), URL(HOST))

UNREACHABLE = (Unavailable, "KUBERNETES_UNREACHABLE")
UNTRUSTED = (Unavailable, "KUBERNETES_UNTRUSTED")
UNKNOWN = (OutcomeUnknown, "OUTCOME_UNKNOWN")

EXCEPTIONS: list[tuple[Exception, tuple[type[KubevendError], str]]] = [
    (aiohttp.ClientError(), UNKNOWN),
    (aiohttp.ClientConnectionError(), UNKNOWN),
    (aiohttp.ClientConnectionResetError(), UNKNOWN),
    (aiohttp.ClientOSError(104, "reset"), UNKNOWN),
    (aiohttp.ClientConnectorError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientConnectorDNSError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientProxyConnectionError(KEY, REFUSED), UNREACHABLE),
    (client_exceptions.UnixClientConnectorError("/x", KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientSSLError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientConnectorSSLError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("self-signed")), UNTRUSTED),
    (aiohttp.ServerConnectionError(), UNKNOWN),
    (aiohttp.ServerDisconnectedError(), UNKNOWN),
    (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), UNKNOWN),
    (aiohttp.ServerTimeoutError(), UNKNOWN),
    (aiohttp.ConnectionTimeoutError(), UNREACHABLE),
    (aiohttp.SocketTimeoutError(), UNKNOWN),
    (aiohttp.ClientPayloadError(), UNKNOWN),
    (aiohttp.ClientResponseError(REQUEST, ()), UNKNOWN),
    (aiohttp.ContentTypeError(REQUEST, ()), UNKNOWN),
    (aiohttp.ClientHttpProxyError(REQUEST, ()), UNKNOWN),
    (aiohttp.WSServerHandshakeError(REQUEST, ()), UNKNOWN),
    (aiohttp.TooManyRedirects(REQUEST, ()), UNKNOWN),
    (aiohttp.InvalidURL("x"), UNKNOWN),
    (aiohttp.NonHttpUrlClientError("x"), UNKNOWN),
    (aiohttp.InvalidUrlClientError("x"), UNKNOWN),
    (aiohttp.RedirectClientError("x"), UNKNOWN),
    (aiohttp.NonHttpUrlRedirectClientError("x"), UNKNOWN),
    (aiohttp.InvalidUrlRedirectClientError("x"), UNKNOWN),
    (client_exceptions.WSMessageTypeError(), UNKNOWN),
    (client_exceptions.UploadAbortedError(), UNKNOWN),
    (TimeoutError(), UNKNOWN),
]


def _subclasses(of: type[BaseException]) -> set[type[BaseException]]:
    return {found for child in of.__subclasses__() for found in {child, *_subclasses(child)}}


def test_no_exception_of_the_client_is_forgotten() -> None:
    """Every exception class that aiohttp's client has stands in the table of this test."""
    ours = {type(error) for error, _ in EXCEPTIONS}
    theirs = {aiohttp.ClientError, *_subclasses(aiohttp.ClientError)}
    assert {error for error in theirs if error.__module__ == "aiohttp.client_exceptions"} <= ours


@pytest.mark.parametrize(("error", "expected"), EXCEPTIONS, ids=lambda value: type(value).__name__)
def test_every_exception_is_one_of_our_errors(error: Exception, expected: tuple[type[KubevendError], str]) -> None:
    """A request that never left is told from one whose answer never came: only the latter may have minted a token."""
    got = from_exception(error, ATTEMPT)
    assert (type(got), got.reason) == expected
    more = {"kubernetes_audit_id": "audit-1"} if expected == UNKNOWN else {}
    assert got.metadata == {**FACTS, **more}


def test_an_untrusted_certificate_says_what_to_set() -> None:
    """The message has OpenSSL's own words and the fields of the config."""
    error = from_exception(
        aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("self-signed certificate")), ATTEMPT
    )
    assert re.search("self-signed certificate.*kubernetes_ca_cert.*kubernetes_host", error.message)


def test_an_answer_that_cannot_be_read_is_unknown() -> None:
    """A success with a body that is none may have minted a token."""
    assert (type(unreadable(ATTEMPT)), unreadable(ATTEMPT).reason) == UNKNOWN


@pytest.mark.parametrize("host", ["https://" + "a" * 64 + ".com", "https://a..b", "https://"])
async def test_nothing_else_leaves_a_connection(host: str) -> None:
    """What the client refuses before it opens a socket, a name that no resolver takes for one, is one of our errors
    too. (These names fail while they are encoded; no packet leaves.)
    """
    connection = Connection(Endpoint(host), StaticToken("token"), Transport(1, 1, 1, trust_env=False))
    try:
        with pytest.raises(KubevendError):
            await connection.post("/x", {}, ATTEMPT)
    finally:
        await connection.retire()


def test_facts_leave_out_what_is_empty() -> None:
    """An attempt without a namespace and a name has neither among its facts."""
    bare: dict[str, Any] = Attempt(HOST, "a TokenReview").facts(more="x", nothing="")
    assert bare == {"subject": HOST, "host": HOST, "more": "x"}

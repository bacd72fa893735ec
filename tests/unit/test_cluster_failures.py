from __future__ import annotations

import json
import re
import shlex
import ssl
from dataclasses import replace
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

from kubevend_server.cluster.connection import Connection, Transport
from kubevend_server.cluster.credentials import NOTHING, Presented, Stored
from kubevend_server.cluster.failures import (
    Attempt,
    Forbidden,
    Redirected,
    Unauthorized,
    busy,
    from_exception,
    from_status,
    not_covered,
    subject_flag,
    unreadable,
)
from kubevend_server.cluster.status import parse_status
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.errors import (
    Aborted,
    FailedPrecondition,
    KubevendError,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
)
from tests.unit.builders import bearer, client_certificate

HOST = "https://10.0.0.1:6443"
MINTING = Attempt(
    label="configs/default",
    host=HOST,
    trusts="the CA of the test",
    credential="the stored token",
    what="a token for ServiceAccount apps/deployer",
    namespace="apps",
    name="deployer",
    right="the right to do so",
    grant="bind {identity}",
    audit_id="audit-1",
    mints=True,
)
ASKING = Attempt("configs/default", HOST, "the CA of the test", "the stored token", "a TokenReview")
ATTEMPTS = [pytest.param(MINTING, id="mints"), pytest.param(ASKING, id="asks")]
WHERE = {"subject": "configs/default", "config": "configs/default", "host": HOST}
FACTS = {**WHERE, "namespace": "apps", "name": "deployer"}
IDENTITY = "system:serviceaccount:kubevend:kubevend"
REJECTED = (FailedPrecondition, "KUBERNETES_REJECTED")
NOT_KUBERNETES = (FailedPrecondition, "NOT_KUBERNETES")
UNAVAILABLE = (Unavailable, "KUBERNETES_UNAVAILABLE")

KNOWN: dict[int, tuple[type[KubevendError], str]] = {
    401: (Unauthorized, "KUBERNETES_UNAUTHORIZED"),
    # Not RBAC, which says who may not.
    403: (FailedPrecondition, "KUBERNETES_DENIED"),
    404: NOT_KUBERNETES,
    409: (Aborted, "KUBERNETES_CONFLICT"),
    429: (ResourceExhausted, "KUBERNETES_THROTTLED"),
}


def _body(message: str = "said", **details: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, "details": details}).encode()


def _status(
    status: int, body: bytes | None = None, attempt: Attempt = MINTING, presented: Presented = NOTHING, **headers: str
) -> KubevendError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return from_status(status, CIMultiDict(named), _body() if body is None else body, attempt, presented)


def _no_answer(reason: str, attempt: Attempt) -> tuple[type[KubevendError], str, dict[str, str]]:
    """What becomes of a request whose answer did not come: its class, its reason and its facts."""
    if attempt.mints:
        return OutcomeUnknown, reason, {**FACTS, "kubernetes_audit_id": "audit-1"}
    return Unavailable, reason, WHERE


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_is_one_of_our_errors(status: int, attempt: Attempt) -> None:
    """Whatever the API server answers becomes an error with the reason of that status, which says what the cluster
    said, where, and under which id the outcome can be found where nobody knows it.
    """
    error = _status(status, attempt=attempt)
    assert "said" in error.message or status in (401, 429)
    assert HOST in error.message
    if status == 504:
        assert (type(error), error.reason, error.metadata) == _no_answer("KUBERNETES_TIMED_OUT", attempt)
        return
    assert (type(error), error.reason) == KNOWN.get(status, UNAVAILABLE if status >= 500 else REJECTED)
    facts = FACTS if attempt is MINTING else WHERE
    expected = {**facts, "http_status": str(status), "kubernetes_message": "said"}
    assert error.metadata == (facts if error.reason == "NOT_KUBERNETES" else expected)


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b'{"message":"said"}', b'{"kind":"Pod"}', b"[]"])
@pytest.mark.parametrize("status", sorted(set(range(300, 500)) - {429}))
def test_a_refusal_without_a_status_is_not_kubernetes(status: int, body: bytes) -> None:
    """What refuses without a Status object is no API server, and no right or credential is blamed for it."""
    error = _status(status, body)
    assert (type(error), error.reason, error.metadata) == (*NOT_KUBERNETES, FACTS)


def test_priority_and_fairness_turns_away_in_plain_text() -> None:
    """A 429 without a Status object is still one: that is how the API server writes it."""
    error = _status(429, b"Too many requests, please try again later.\n")
    assert (type(error), error.reason) == (ResourceExhausted, "KUBERNETES_THROTTLED")


def test_a_missing_right_names_identity_and_remedy() -> None:
    """A 403 says who was refused what, and what to grant to whom."""
    said = (
        f'serviceaccounts "deployer" is forbidden: User "{IDENTITY}" cannot create '
        'resource "serviceaccounts/token" in API group "" in the namespace "apps"'
    )
    error = _status(403, _body(said, kind="serviceaccounts"))
    assert type(error) is Forbidden
    assert (error.reason, error.message) == (
        "KUBERNETES_FORBIDDEN",
        (
            f"RBAC of {HOST} does not let {IDENTITY} have a token for ServiceAccount apps/deployer: that takes the "
            "right to do so. If 'apps' is a slip, correct the request or allowed_namespaces of the role. To grant it: "
            "`bind --serviceaccount=kubevend:kubevend` (CheckConfig on configs/default prints all that is missing)"
        ),
    )
    assert error.metadata == {**FACTS, "http_status": "403", "kubernetes_message": said, "identity": IDENTITY}


def test_a_right_without_the_name_says_for_whom_it_is() -> None:
    """Where resourceNames leave the ServiceAccount out, the error says so, and not which others they have."""
    refusal = Forbidden("KUBERNETES_FORBIDDEN", "No.", metadata={**FACTS, "identity": IDENTITY})
    error = not_covered(refusal, MINTING)
    assert (error.reason, error.message) == (
        "KUBERNETES_RESOURCE_NAMES",
        (
            f"{IDENTITY} may request tokens in namespace 'apps' of {HOST} for some ServiceAccounts only (resourceNames "
            "of its Kubernetes Role), and 'deployer' is not among them. Add it there, or grant it by itself: "
            "`bind --serviceaccount=kubevend:kubevend` (CheckConfig on configs/default prints all that is missing)"
        ),
    )
    assert error.metadata == {**FACTS, "identity": IDENTITY}


@pytest.mark.parametrize(
    ("identity", "flag"),
    [(IDENTITY, "--serviceaccount=kubevend:kubevend"), ("admin", "--user=admin"), ("a b", "--user=a b")],
)
def test_an_identity_is_named_as_kubectl_wants_it(identity: str, flag: str) -> None:
    """A ServiceAccount is a ServiceAccount to kubectl, and everyone else a user."""
    assert shlex.split(subject_flag(identity)) == [flag]


@pytest.mark.parametrize(
    "identity", ["o'$(id)", "a'b\"c", "system:serviceaccount:a:b; id", "system:serviceaccount:a:$(id)"]
)
def test_an_identity_is_one_word_to_a_shell(identity: str) -> None:
    """Whatever an identity holds, who copies the command that grants it runs this command and no other one."""
    name = identity.removeprefix("system:serviceaccount:")
    flag = "--user" if name == identity else "--serviceaccount"
    assert subject_flag(identity) in {f"{flag}={shlex.quote(name)}", shlex.quote(f"{flag}={name}")}


@pytest.mark.parametrize(
    ("status", "details", "reason"),
    [
        (403, {"causes": [{"reason": "NamespaceTerminating"}]}, "KUBERNETES_NAMESPACE_TERMINATING"),
        (404, {"kind": "namespaces"}, "KUBERNETES_NAMESPACE_NOT_FOUND"),
        (404, {"kind": "serviceaccounts"}, "KUBERNETES_SERVICE_ACCOUNT_NOT_FOUND"),
    ],
)
def test_what_is_missing_is_named(status: int, details: dict[str, Any], reason: str) -> None:
    """A namespace that ends, one that is not there and a ServiceAccount that is not there are told apart."""
    error = _status(status, _body(**details))
    assert (type(error), error.reason) == (FailedPrecondition, reason)
    assert error.metadata == {**FACTS, "http_status": str(status), "kubernetes_message": "said"}


@pytest.mark.parametrize(
    ("presented", "expired"),
    [
        (NOTHING, ""),
        (Presented("no JWT"), ""),
        (Presented(bearer(exp=4_000_000_000)), ""),
        (Presented(bearer(exp=1_000_000_000)), "2001-09-09T01:46:40+00:00"),
    ],
    ids=["nothing", "no JWT", "valid", "expired"],
)
def test_a_401_tells_an_expired_credential(presented: Presented, expired: str) -> None:
    """A credential that has expired is told from one that the cluster does not know, and the 401 never shows it."""
    error = _status(401, presented=presented)
    facts = {**FACTS, "http_status": "401", "kubernetes_message": "said"}
    assert error.metadata == ({**facts, "expired": expired} if expired else facts)
    assert (f"it expired at {expired}" in error.message) == bool(expired)
    assert ("it is of another cluster" in error.message) == (not expired)
    assert presented.token not in error.message or not presented.token


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
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"text"',
        b'{"message":"x"}',
        b'{"kind":"Pod"}',
        b'{"kind":"Status","message":null}',
        b'{"kind":"Status","details":5}',
        b"\xff\xfe",
        b"{",
    ],
)
def test_a_body_that_is_not_kubernetes_own_is_told(body: bytes) -> None:
    """A failure whose body is no Status says so."""
    said = _status(502, body).metadata["kubernetes_message"]
    assert said == "an answer that is not Kubernetes' own"
    assert not parse_status(body)


def test_a_long_message_is_cut() -> None:
    """What a cluster says is cut, so that the error still fits into gRPC's trailers."""
    assert _status(500, _body("x" * 10_000)).metadata["kubernetes_message"] == "x" * 600
    assert parse_status(_body("x" * 10_000))


KEY = ConnectionKey("10.0.0.1", 6443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
REFUSED = OSError(111, "refused")
REQUEST = RequestInfo(URL(HOST), "POST", CIMultiDictProxy(CIMultiDict()), URL(HOST))


def test_a_forbidden_request_without_a_namespace_has_no_slip() -> None:
    """What is in no namespace is told with its command alone."""
    error = _status(403, _body(f'User "{IDENTITY}" cannot create'), replace(ASKING, right="that", grant="x {identity}"))
    assert error.message == (
        f"RBAC of {HOST} does not let {IDENTITY} have a TokenReview: that takes that. To grant it: "
        "`x --serviceaccount=kubevend:kubevend`"
    )


def test_a_command_that_would_be_cut_is_left_out() -> None:
    """A command of names so long that the message would not reach the caller whole is not begun."""
    name = "a" * 253
    long = replace(MINTING, name=name, what=f"a token for ServiceAccount {'n' * 63}/{name}", namespace="n" * 63)
    long = replace(long, grant=f"kubectl {name} {name} {name} {{identity}}", right="x" * 300)
    message = _status(403, _body(f'User "{IDENTITY}" cannot create')).message
    assert "`bind" in message
    message = _status(403, _body(f'User "{IDENTITY}" cannot create'), long).message
    assert "kubectl" not in message
    assert message.endswith("To grant it: CheckConfig on configs/default prints all that is missing.")
    assert len(message.encode()) < 1500


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (bearer(sub=IDENTITY), "`kubectl create token kubevend --namespace=kubevend` makes one for the same"),
        (
            bearer(sub="system:serviceaccount:a:--x"),
            "`kubectl create token NAME --namespace=NAMESPACE` makes one for a",
        ),
        ("no JWT", "`kubectl create token NAME --namespace=NAMESPACE` makes one for a"),
    ],
    ids=["ours", "an option", "nobody's"],
)
def test_a_401_says_how_to_make_a_fresh_token(token: str, told: str) -> None:
    """Where a token says whose it is, the command makes one for the same ServiceAccount, and for how long."""
    message = _status(401, presented=Presented(token)).message
    assert message.endswith(f"{told} ServiceAccount, for an hour (--duration for more).")


@pytest.mark.parametrize(
    ("host", "where"),
    [
        (HOST, "10.0.0.1:6443"),
        ("https://api.example.com", "api.example.com:443"),
        ("https://[::1]:6443", "'[::1]:6443'"),
        ("https://a;id:1", "'a;id:1'"),
    ],
)
def test_another_name_says_how_to_see_the_right_ones(host: str, where: str) -> None:
    """Where a certificate is for other names, a command shows which, with the host as one word to a shell."""
    message = from_exception(_refused_certificate(62, "Hostname mismatch"), replace(MINTING, host=host)).message
    assert message.endswith(
        "for which the certificate was made: `kubectl cluster-info` shows one that fits; `openssl s_client -connect "
        f"{where} </dev/null | openssl x509 -noout -ext subjectAltName` shows what it was made for."
    )


@pytest.mark.parametrize("host", ["https://[::1", "https://", "https://a`id`", "https://a:99999"])
def test_a_host_that_is_none_has_no_command(host: str) -> None:
    """What cannot be written into a command is not."""
    message = from_exception(_refused_certificate(62, "Hostname mismatch"), replace(MINTING, host=host)).message
    assert "openssl s_client" not in message


AGAIN = "sets it; the credential is asked for again, since it was not meant for the new one."
GIVEN = '"tokenFile":"/run/prod/token"'


@pytest.mark.parametrize(
    ("trusts", "given", "told"),
    [
        ("kubernetes_ca_cert of configs/default", GIVEN, True),
        ("kubernetes_ca_cert of configs/default", '"inCluster":{}', True),
        ("the CA file /ca.crt", '"inCluster":{}', False),
        ("the CA file /ca.crt", "", False),
    ],
)
def test_a_ca_is_changed_where_it_stands(trusts: str, given: str, told: bool) -> None:
    """Only what stands in a config is changed with UpdateConfig, and the call is told, as JSON takes the CA."""
    error = from_exception(_refused_certificate(18, "x"), replace(MINTING, trusts=trusts, given=given))
    update = f'{{"config":{{"name":"configs/default","kubernetesCaCert":"PEM",{given}}}}}'
    assert error.message.endswith(f" ConfigService/UpdateConfig '{update}' {AGAIN}") == told
    assert ("""| base64 -d | awk '{printf "%s\\\\n", $0}'`""" in error.message) == told


@pytest.mark.parametrize("given", [GIVEN, '"inCluster":{}', ""])
@pytest.mark.parametrize(
    "error", [TimeoutError(), Redirected(), aiohttp.ClientConnectorSSLError(KEY, REFUSED), UnicodeError()]
)
def test_a_host_is_changed_with_its_credential(error: Exception, given: str) -> None:
    """Who is told to change a config's host is told by which call, with the credential, which is asked for again; the
    pod's own can be shown to no other host.
    """
    message = from_exception(error, replace(MINTING, given=given)).message
    update = f'{{"config":{{"name":"configs/default","kubernetesHost":"https://HOST:PORT",{GIVEN}}}}}'
    told = message.endswith(f" ConfigService/UpdateConfig '{update}' {AGAIN}")
    assert told == ("kubernetes_host" in message and given == GIVEN)


@pytest.mark.parametrize("given", ['"tokenFile":"/it\'s/token"', f'"tokenFile":"/{"a" * 400}"'])
def test_a_call_that_cannot_be_pasted_is_left_out(given: str) -> None:
    """A path that a shell would take otherwise, or that is too long, is told in words alone."""
    message = from_exception(Redirected(), replace(MINTING, given=given)).message
    assert message.endswith(f" UpdateConfig {AGAIN}")


@pytest.mark.parametrize(
    ("given", "takes"),
    [
        ('"serviceAccountJwt":"TOKEN"', True),
        ('"clientCertificate":{"certificate":"PEM","privateKey":"PEM"}', True),
        ('"clientCertificateFiles":{"certificateFile":"/a","privateKeyFile":"/b"}', False),
        (GIVEN, False),
        ('"inCluster":{}', False),
        ("", False),
    ],
)
def test_a_stored_credential_is_renewed_by_update(given: str, takes: bool) -> None:
    """A credential that is in no file is given anew by UpdateConfig, and a 401 tells the call."""
    message = _status(401, attempt=replace(MINTING, given=given)).message
    told = f'ConfigService/UpdateConfig \'{{"config":{{"name":"configs/default",{given}}}}}\' takes it.'
    assert message.endswith(told) == takes


def test_a_401_tells_for_whom_the_token_is() -> None:
    """The audiences of a token that is not accepted are told, since they may be why."""
    for audiences, told in (("vault", "vault"), (["vault", "b"], "vault, b")):
        message = _status(401, presented=Presented(bearer(aud=audiences, exp=4102444800))).message
        assert f"is for another audience than the API server's (it is for {told})." in message
    nothing: list[object] = [None, 5, [], ""]
    for audience in nothing:
        message = _status(401, presented=Presented(bearer(aud=audience, exp=4102444800))).message
        assert "is for another audience than the API server's. Put" in message


def test_a_certificate_that_is_not_accepted_is_no_token() -> None:
    """A 401 for a client certificate tells how a certificate is made anew."""
    valid, ended = client_certificate(life=timedelta(days=99999)), client_certificate(life=timedelta(days=-1 / 2))
    renewal = "Put one in its place, with its key, that the cluster has signed (a CertificateSigningRequest for "
    message = _status(401, presented=valid.presented).message
    assert "not signed by an authority that the cluster lets sign client certificates. " + renewal in message
    message = _status(401, presented=ended.presented).message
    assert "(configs/default): it expired at 2026-05-04T00:00:00+00:00. " + renewal in message


def test_a_missing_service_account_may_be_another_one() -> None:
    """A ServiceAccount that is not there is made, or another one is named, and the message says where."""
    assert _status(404, _body(kind="serviceaccounts")).message.endswith(
        "create it (`kubectl create serviceaccount deployer --namespace=apps`), or name another one in the request or "
        "the role."
    )


def _refused_certificate(code: int, message: str) -> Exception:
    """As OpenSSL refuses a server's certificate."""
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_code, error.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(KEY, error)


UNREACHABLE = (Unavailable, "KUBERNETES_UNREACHABLE")
UNTRUSTED = (FailedPrecondition, "KUBERNETES_UNTRUSTED")
TLS_FAILED = (FailedPrecondition, "KUBERNETES_TLS_FAILED")
LOST = (OutcomeUnknown, "KUBERNETES_CONNECTION_LOST")
TIMED_OUT = (OutcomeUnknown, "KUBERNETES_TIMED_OUT")

EXCEPTIONS: list[tuple[Exception, tuple[type[KubevendError], str]]] = [
    (aiohttp.ClientError(), LOST),
    (Redirected(), NOT_KUBERNETES),
    (aiohttp.ClientConnectionError(), LOST),
    (aiohttp.ClientConnectionResetError(), LOST),
    (aiohttp.ClientOSError(104, "reset"), LOST),
    (aiohttp.ClientConnectorError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientConnectorDNSError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientProxyConnectionError(KEY, REFUSED), UNREACHABLE),
    (client_exceptions.UnixClientConnectorError("/x", KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientSSLError(KEY, REFUSED), UNREACHABLE),
    (aiohttp.ClientConnectorSSLError(KEY, REFUSED), TLS_FAILED),
    (_refused_certificate(18, "self-signed"), UNTRUSTED),
    (aiohttp.ServerConnectionError(), LOST),
    (aiohttp.ServerDisconnectedError(), LOST),
    (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), LOST),
    (aiohttp.ServerTimeoutError(), TIMED_OUT),
    (aiohttp.ConnectionTimeoutError(), UNREACHABLE),
    (aiohttp.SocketTimeoutError(), TIMED_OUT),
    (aiohttp.ClientPayloadError(), LOST),
    (aiohttp.ClientResponseError(REQUEST, ()), LOST),
    (aiohttp.ContentTypeError(REQUEST, ()), LOST),
    (aiohttp.ClientHttpProxyError(REQUEST, ()), LOST),
    (aiohttp.WSServerHandshakeError(REQUEST, ()), LOST),
    (aiohttp.TooManyRedirects(REQUEST, ()), LOST),
    (aiohttp.InvalidURL("x"), UNREACHABLE),
    (aiohttp.NonHttpUrlClientError("x"), UNREACHABLE),
    (aiohttp.InvalidUrlClientError("x"), UNREACHABLE),
    (aiohttp.RedirectClientError("x"), LOST),
    (aiohttp.NonHttpUrlRedirectClientError("x"), LOST),
    (aiohttp.InvalidUrlRedirectClientError("x"), LOST),
    (client_exceptions.WSMessageTypeError(), LOST),
    (client_exceptions.UploadAbortedError(), LOST),
    (TimeoutError(), TIMED_OUT),
    (UnicodeError(), UNREACHABLE),
]


def _subclasses(of: type[BaseException]) -> set[type[BaseException]]:
    return {found for child in of.__subclasses__() for found in {child, *_subclasses(child)}}


def test_no_exception_of_the_client_is_forgotten() -> None:
    """Every exception class that aiohttp's client has stands in the table of this test."""
    ours = {type(error) for error, _ in EXCEPTIONS}
    theirs = {aiohttp.ClientError, *_subclasses(aiohttp.ClientError)}
    assert {error for error in theirs if error.__module__ == "aiohttp.client_exceptions"} <= ours


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize(("error", "expected"), EXCEPTIONS, ids=lambda value: type(value).__name__)
def test_every_exception_is_one_of_our_errors(
    error: Exception, expected: tuple[type[KubevendError], str], attempt: Attempt
) -> None:
    """A request that never left is told from one whose answer never came: only the latter may have minted a token, and
    only where it was a token that was asked for is the outcome unknown.
    """
    got = from_exception(error, attempt)
    wanted, reason = expected
    if wanted is OutcomeUnknown:
        assert (type(got), got.reason, got.metadata) == _no_answer(reason, attempt)
        return
    more = {"tls_error": "self-signed"} if reason == "KUBERNETES_UNTRUSTED" else {}
    facts = FACTS if attempt is MINTING else WHERE
    assert (type(got), got.reason, got.metadata) == (wanted, reason, {**facts, **more})


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (18, "self-signed certificate", "not signed by the CA of the test: .*certificate-authority-data"),
        (20, "unable to get local issuer certificate", "not signed by the CA of the test"),
        (62, "Hostname mismatch", "Set kubernetes_host of configs/default to a name"),
        (64, "IP address mismatch", "Set kubernetes_host of configs/default to a name"),
        (10, "certificate has expired", "Renew the API server's certificate, or set kubevend's clock"),
        (9, "certificate is not yet valid", "Renew the API server's certificate, or set kubevend's clock"),
    ],
)
def test_an_untrusted_certificate_says_what_to_set(code: int, said: str, told: str) -> None:
    """The message has OpenSSL's own words, and what to set for this fault and not for another."""
    error = from_exception(_refused_certificate(code, said), MINTING)
    assert re.search(f"is not trusted: {said}[.] .*{told}", error.message)
    assert (error.reason, error.metadata) == ("KUBERNETES_UNTRUSTED", {**FACTS, "tls_error": said})


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_answer_that_cannot_be_read_is_unknown(attempt: Attempt) -> None:
    """A success with a body that is none may have minted a token; where nothing was to be minted, it is no API
    server's.
    """
    got = unreadable(attempt)
    expected = _no_answer("KUBERNETES_UNREADABLE", attempt) if attempt.mints else (*NOT_KUBERNETES, WHERE)
    assert (type(got), got.reason, got.metadata) == expected


def test_a_busy_cluster_says_how_many() -> None:
    """Where no connection comes free, the error says how many there are, and to come again."""
    got = busy(ASKING, 3)
    assert (type(got), got.reason, got.retry_after) == (ResourceExhausted, "CLUSTER_BUSY", timedelta(seconds=1))
    assert got.metadata == {**WHERE, "max_connections": "3"}


@pytest.mark.parametrize("host", ["https://" + "a" * 64 + ".com", "https://a..b", "https://"])
async def test_nothing_else_leaves_a_connection(host: str) -> None:
    """What the client refuses before it opens a socket, a name that no resolver takes for one, is one of our errors
    too. (These names fail while they are encoded; no packet leaves.)
    """
    credential = Stored("the stored token", Presented("token"))
    connection = Connection(Endpoint("configs/default", host), credential, Transport(1, 1, 1, trust_env=False))
    try:
        with pytest.raises(KubevendError):
            await connection.post("/x", {}, MINTING)
    finally:
        await connection.retire()


def test_facts_leave_out_what_is_empty() -> None:
    """An attempt without a namespace and a name has neither among its facts."""
    assert ASKING.facts(more="x", nothing="") == {**WHERE, "more": "x"}


@pytest.mark.parametrize(
    ("policy", "is_ours"), [("kubevend-secrets.default.kubevend.kubevend", True), ("other", False)]
)
def test_a_policy_of_kubevends_own_says_what_to_do(policy: str, *, is_ours: bool) -> None:
    """A denial by one of the policies that kubevend prints says that it is out of date, and what mends that."""
    said = f"secrets x is forbidden: ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: no"
    body = json.dumps({"kind": "Status", "message": said, "reason": "Forbidden"}).encode()

    error = from_status(403, CIMultiDict(), body, MINTING)

    assert error.reason == "KUBERNETES_DENIED"
    assert ("`kubevend-server rbac --all` prints" in error.message) == is_ours

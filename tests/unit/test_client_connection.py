"""How the Python library connects: settings, files that are replaced, errors taken apart, tokens kept to themselves."""

from __future__ import annotations

import copy
import json
import pickle
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import code_pb2
from kubernetes.client import Configuration

import kubevend.kubernetes
from kubevend import Client, ClientError, Denied, KubevendError, Settings, Token, Unavailable, cluster
from kubevend.channels import OPTIONS, Line, Lines
from kubevend.errors import Violation
from kubevend.statuses import to_error
from kubevend.tokens import issue_request
from kubevend.v1 import issue_service_pb2 as pb
from kubevend.watched import WatchedFile
from kubevend_server.errors import InvalidArgument, PermissionDenied, to_status
from kubevend_server.errors import Violation as ServerViolation
from tests.support.spiffe import Authority


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"address": ""}, r"address \(KUBEVEND_ADDRESS\) is not set"),
        ({"address": "https://kubevend:7443"}, "must be host:port"),
        ({"address": "kubevend"}, "must be host:port"),
        ({"client_cert_file": Path("c")}, "go together"),
        ({"client_key_file": Path("k")}, "go together"),
        ({"client_cert_file": Path("c"), "client_key_file": Path("k"), "token_file": Path("t")}, "two identities"),
        ({"insecure": True, "address": "kubevend.example:7443"}, "loopback"),
        ({"insecure": True, "address": "10.0.0.1:7443"}, "loopback"),
        ({"insecure": True, "ca_file": Path("ca")}, "goes without"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], fault: str) -> None:
    """Settings that contradict themselves are refused, with what to do."""
    with pytest.raises(ClientError, match=fault) as refused:
        Settings(**{"address": "127.0.0.1:7443", **given})
    assert (refused.value.code, refused.value.reason) == ("CLIENT", "SETTINGS_INVALID")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/kubevend.sock"])
def test_plain_text_stays_on_the_machine(address: str) -> None:
    """Plain text goes to loopback addresses and sockets, where it is asked for."""
    assert Settings(address, insecure=True).insecure


def test_settings_come_from_the_environment() -> None:
    """Each variable is read; an empty one counts as missing."""
    environ = {
        "KUBEVEND_ADDRESS": "kubevend:7443",
        "KUBEVEND_CA_FILE": "/ca",
        "KUBEVEND_TOKEN_FILE": "",
        "KUBEVEND_CLIENT_CERT_FILE": "/crt",
        "KUBEVEND_CLIENT_KEY_FILE": "/key",
    }
    assert Settings.from_environment(environ) == Settings(
        "kubevend:7443", Path("/ca"), None, Path("/crt"), Path("/key")
    )


def test_a_file_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    """What was rewritten or swapped by a link is read; while a file is missing or empty it counts as it was last."""
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "link"
    first.write_text("one")
    second.write_text("two")
    link.symlink_to(first)
    watched = WatchedFile(link, "token_file")
    assert watched.read() == b"one"

    (tmp_path / "next").symlink_to(second)
    (tmp_path / "next").replace(link)
    assert watched.read() == b"two"
    second.write_text("")
    assert watched.read() == b"two"
    second.unlink()
    assert watched.read() == b"two"
    second.write_text("three")
    assert watched.read() == b"three"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_file_of_no_use(tmp_path: Path, content: str | None) -> None:
    """A file that is missing or empty from the start is an error that names it."""
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClientError, match=rf"ca_file: {file} ") as refused:
        WatchedFile(file, "ca_file").read()
    assert refused.value.reason == "FILE_UNREADABLE"


def _lines(settings: Settings) -> Lines[object]:
    return Lines(settings, lambda _: object())


@pytest.mark.parametrize("content", ["two words", "Bearer x", "ümlaut", "a\nb", "a\x00b"])
def test_what_is_no_token_is_not_sent(tmp_path: Path, content: str) -> None:
    """A token file with something else in it is refused, and its content is not shown."""
    (tmp_path / "token").write_text(content)
    with pytest.raises(ClientError) as refused:
        _lines(Settings("localhost:1", token_file=tmp_path / "token")).metadata(None)
    assert content not in str(refused.value)


def test_a_new_certificate_gets_a_new_channel(tmp_path: Path) -> None:
    """The old channel is closed only when no call runs on it any longer."""
    authority = Authority()
    certificate, key = authority.svid("/a").write(tmp_path)
    lines = _lines(Settings("localhost:1", client_cert_file=certificate, client_key_file=key))
    first, _ = lines.take(id)
    assert lines.take(id)[0] is first
    lines.give_back(first)
    new = authority.svid("/a")
    certificate.write_text(new.certificate)
    assert lines.take(id)[0] is first, "the key is not replaced yet"
    lines.give_back(first)
    key.write_text(new.private_key)
    second, _ = lines.take(id)
    assert second.channel is not first.channel
    assert "PRIVATE KEY" not in repr(second)
    assert lines.idle() == []
    lines.give_back(first)
    assert lines.idle() == [first.channel]
    assert lines.end() == [second.channel]
    with pytest.raises(ClientError, match="CLOSED"):
        lines.take(id)


@pytest.mark.parametrize("kind", ["another", "encrypted", "no key"])
def test_a_key_that_is_not_the_certificates(tmp_path: Path, kind: str) -> None:
    """A key that does not fit, or has a password, is an error that names both files and shows nothing of the key."""
    certificate, key = Authority().svid("/a").write(tmp_path)
    other = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(b"password") if kind == "encrypted" else serialization.NoEncryption()
    written = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    key.write_bytes(b"none" if kind == "no key" else written)
    with pytest.raises(ClientError) as refused:
        _lines(Settings("localhost:1", client_cert_file=certificate, client_key_file=key)).take(id)
    assert refused.value.reason == "KEY_MISMATCH"
    assert str(key) in str(refused.value)
    assert written.decode().splitlines()[1] not in str(refused.value)


def test_errors_have_all_that_the_server_said() -> None:
    """What the server puts into an error comes out of it, in the class for its code; copies of it are complete."""
    refusal = InvalidArgument(
        "FIELD_INVALID",
        "namespace must be a name",
        metadata={"given": "No"},
        violations=[ServerViolation("namespace", "must be a name")],
        retry_after=timedelta(seconds=3),
    )
    status = to_status(refusal, "request-1")
    error = to_error("INVALID_ARGUMENT", "cut", [("grpc-status-details-bin", status.SerializeToString())])

    assert vars(copy.copy(error)) == vars(error)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)  # noqa: S301 - our own
    assert vars(error) == {
        "message": "namespace must be a name",
        "code": "INVALID_ARGUMENT",
        "reason": "FIELD_INVALID",
        "metadata": {"given": "No"},
        "violations": (Violation("namespace", "must be a name"),),
        "retry_after": timedelta(seconds=3),
        "request_id": "request-1",
    }
    assert str(error) == "FIELD_INVALID: namespace must be a name"


def test_errors_have_classes_to_catch() -> None:
    """A denial is a Denied; what a proxy answers, without or with garbled details, is an error all the same."""
    status = to_status(PermissionDenied("ACCESS_DENIED", "no"), "r")
    assert code_pb2.Code.Name(status.code) == "PERMISSION_DENIED"
    trailers = [("other", "x"), ("grpc-status-details-bin", status.SerializeToString())]
    assert type(to_error("PERMISSION_DENIED", "", trailers)) is Denied
    assert type(to_error("ABORTED", "", trailers)) is KubevendError
    for details in ([], [("grpc-status-details-bin", b"\xff")]):
        error = to_error("UNAVAILABLE", "no healthy upstream", details)
        assert (error.code, error.reason, str(error)) == ("UNAVAILABLE", "", "UNAVAILABLE: no healthy upstream")


def test_a_token_is_in_no_text() -> None:
    """Neither repr nor str nor a dict of its fields nor JSON shows a token; equal ones are equal."""
    reply = pb.IssueTokenResponse(token="s3cret-token", lease="leases/1", jti="1")
    token = Token.of(reply)
    assert token.token == "s3cret-token"
    assert token == Token.of(reply)
    for text in (repr(token), str(token), f"{token}", str(asdict(token)), json.dumps(asdict(token), default=repr)):
        assert "s3cret" not in text


@pytest.mark.parametrize("role", ["ci", "roles/ci"])
def test_requests(role: str) -> None:
    """A role goes by both of its names, and what is left out is not sent."""
    assert issue_request(role) == pb.IssueTokenRequest(role="roles/ci")
    request = issue_request(role, ttl=timedelta(minutes=10), min_ttl=timedelta(minutes=1), audiences=["a"])
    assert (request.ttl.seconds, request.min_ttl.seconds, [*request.audiences]) == (600, 60, ["a"])


def test_retries_are_for_what_was_not_done() -> None:
    """A call is made again after UNAVAILABLE alone, four times in all, with growing pauses; a stream is not."""
    stream, others = json.loads(str(dict(OPTIONS)["grpc.service_config"]))["methodConfig"]
    assert stream == {"name": [{"service": "kubevend.v1.IssueService", "method": "StreamTokens"}]}
    assert others == {
        "name": [{}],
        "retryPolicy": {
            "maxAttempts": 4,
            "initialBackoff": "0.2s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }


def test_where_the_api_server_is() -> None:
    """A host that is given counts; a pod knows its own; elsewhere one must be given."""
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert cluster.target("https://a", None, pod) == ("https://a", None)
    assert cluster.target("", None, pod) == (
        "https://10.0.0.1:443",
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    )
    assert cluster.target("", "/ca", {**pod, "KUBERNETES_SERVICE_HOST": "fd00::1"}) == ("https://[fd00::1]:443", "/ca")
    with pytest.raises(ClientError, match="HOST_MISSING"):
        cluster.target("", None, {})


@pytest.mark.parametrize(
    "host", ["10.0.0.1:6443", "http://10.0.0.1:6443", "api.example", "ftp://a", "http://127.0.0.1.example"]
)
def test_a_token_goes_to_no_host_in_plain_text(host: str) -> None:
    """To the Kubernetes client a host without a scheme is one without TLS: it is refused, with what to write."""
    with pytest.raises(ClientError, match="https://") as refused:
        kubevend.kubernetes.plug_in(Configuration(host=host), cast("Any", None))
    assert refused.value.reason == "HOST_INSECURE"


@pytest.mark.parametrize(
    "host", ["https://10.0.0.1:6443", "http://127.0.0.1:8001", "http://localhost", "http://[::1]:1"]
)
def test_a_token_goes_by_tls_or_stays_here(host: str) -> None:
    """A host with TLS is good, and so is one on this machine."""
    cluster.check_host(host)


def test_plain_text_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy, which gRPC asks for loopback addresses as well, does not get what goes without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        settings = Settings(address=f"127.0.0.1:{server.getsockname()[1]}", insecure=True)
        with ThreadPoolExecutor() as pool, Client(settings) as client:
            calling = pool.submit(client.issue, "ci", timeout=5)
            found, _, _ = select.select([proxy, server], [], [], 30)
            server.close()  # which ends the call
            proxy.close()
            assert isinstance(calling.exception(), KubevendError)
    assert found == [server]


def test_a_token_replaces_what_a_configuration_had() -> None:
    """A request is made with the source's token alone, whatever keys, prefixes and certificates were set before."""
    for name in ("BearerToken", "authorization"):
        configuration = Configuration(
            api_key={name: "old"}, api_key_prefix={name: "Token"}, cert_file="c", key_file="k"
        )
        cluster.forget_credentials(configuration)
        cluster.set_token(configuration, "new")
        assert configuration.auth_settings()["BearerToken"]["value"] == "Bearer new"
        assert (configuration.cert_file, configuration.key_file) == (None, None)


@pytest.mark.parametrize(
    ("status", "body", "again"),
    [
        (401, None, True),
        (401, {"kind": "Pod"}, True),
        (401, "text", True),
        (401, iter([b"a"]), False),
        (403, None, False),
        (200, None, False),
    ],
)
def test_what_may_be_sent_again(status: int, body: object, again: bool) -> None:
    """A request is made again after a 401, and only if its body is still there."""
    assert cluster.may_be_sent_again(status, body) is again


def test_closing_while_others_call() -> None:
    """Whoever calls in the moment in which a client is closed is told that, however late it is noticed."""
    client = Client(Settings("127.0.0.1:1", insecure=True))
    with pytest.raises(Unavailable):
        client.whoami(5)
    take = client._lines.take

    def take_and_close(on: Callable[[grpc.Channel], Any]) -> tuple[Line[grpc.Channel], Any]:
        taken = take(on)
        client.close()
        return taken

    client._lines.take = take_and_close  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="CLOSED"):
        client.issuing.StreamTokens(pb.StreamTokensRequest())
    with pytest.raises(ClientError, match="CLOSED"):
        client.whoami()

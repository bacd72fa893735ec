from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kubevend_server.certificates import authorities_fault
from kubevend_server.cluster.clusters import Clusters, OwnCluster
from kubevend_server.cluster.connection import Answer, Connection, Request, Transport
from kubevend_server.cluster.credentials import NOTHING, Credential, Presented, Stored
from kubevend_server.cluster.failures import Unauthorized
from kubevend_server.cluster.trust import Endpoint
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Credential as OfConfig
from kubevend_server.errors import FailedPrecondition, KubevendError, ResourceExhausted
from kubevend_server.files import WatchedFile
from tests.unit.builders import ca_certificate, client_certificate, config
from tests.unit.fake_cluster import HOST, ApiClusters, FakeApi

CA, OTHER_CA = ca_certificate(), ca_certificate()
PAIR, OTHER = client_certificate(), client_certificate()
STATUS = b'{"kind":"Status","message":"said"}'


def _connection(endpoint: Endpoint, credential: Credential | None = None, connections: int = 1) -> Connection:
    transport = Transport(0.05, 1, connections, trust_env=False)
    return Connection(endpoint, credential or Stored("the stored token", Presented("token")), transport)


def _trusted(pool: Any) -> list[bytes]:
    context: ssl.SSLContext = pool.client.rest_client.ssl_context
    return context.get_ca_certs(binary_form=True)


def _der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def _write(file: Path, text: str | None) -> None:
    """What a file holds from now on; None for no file."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """A CA file that can change."""
    file = tmp_path / "ca.crt"
    file.write_text(CA)
    return file


@pytest.fixture
def connection(ca_file: Path) -> Connection:
    """A connection that trusts what is in the CA file."""
    return _connection(Endpoint("configs/a", "https://a", ca_file=WatchedFile(ca_file)))


async def test_a_changed_ca_is_trusted_from_the_next_call_on(connection: Connection, ca_file: Path) -> None:
    """The same authorities go on with the same connections; others make new ones, which trust those alone."""
    first = await connection._current_pool(NOTHING)
    assert await connection._current_pool(NOTHING) is first
    _write(ca_file, OTHER_CA)
    second = await connection._current_pool(NOTHING)
    assert second is not first
    assert (_trusted(first), _trusted(second)) == ([_der(CA)], [_der(OTHER_CA)])
    assert await connection._current_pool(NOTHING) is second


GARBAGE = [
    pytest.param("garbage", id="garbage"),
    pytest.param("\n", id="an empty line"),
    pytest.param(CA[:100], id="cut"),
    pytest.param("", id="empty"),
]


@pytest.mark.parametrize("content", GARBAGE)
async def test_a_ca_file_that_is_being_written_keeps_the_last_one(
    connection: Connection, ca_file: Path, content: str
) -> None:
    """A CA file that is empty, cut or missing leaves the authorities as they were, until it is whole again."""
    first = await connection._current_pool(NOTHING)
    _write(ca_file, content)
    for _ in range(2):
        assert await connection._current_pool(NOTHING) is first
    _write(ca_file, None)
    assert await connection._current_pool(NOTHING) is first
    _write(ca_file, OTHER_CA)
    assert _trusted(await connection._current_pool(NOTHING)) == [_der(OTHER_CA)]
    _write(ca_file, CA)
    assert _trusted(await connection._current_pool(NOTHING)) == [_der(CA)]


@pytest.mark.parametrize("content", GARBAGE)
async def test_a_ca_file_that_never_was_one_is_refused(connection: Connection, ca_file: Path, content: str) -> None:
    """Without authorities to go on with the call is refused, each time, and nothing else is trusted instead."""
    _write(ca_file, content)
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refusal:
            await connection._current_pool(NOTHING)
        assert refusal.value.reason == "CREDENTIAL_UNUSABLE"
    _write(ca_file, CA)
    assert _trusted(await connection._current_pool(NOTHING)) == [_der(CA)]


async def test_comments_in_a_ca_may_be_in_any_language() -> None:
    """Authorities with a comment that is not in ASCII, which the rules of configs accept, can be used."""
    commented = "# Zürich\n" + CA
    assert authorities_fault(commented) == ""
    pool = await _connection(Endpoint("configs/a", "https://a", commented))._current_pool(NOTHING)
    assert _trusted(pool) == [_der(CA)]


async def test_another_client_certificate_makes_new_connections() -> None:
    """What was connected with one certificate is not used with another one; a token changes nothing of this."""
    connection = _connection(Endpoint("configs/a", "https://a", CA))
    first = await connection._current_pool(PAIR.presented)
    assert await connection._current_pool(PAIR.presented) is first
    second = await connection._current_pool(OTHER.presented)
    assert second is not first
    third = await connection._current_pool(Presented("token"))
    assert third is not second
    assert await connection._current_pool(Presented("another token")) is third


async def test_a_client_certificate_without_its_key_is_refused() -> None:
    """A certificate with another key is refused by its config's name, and shown to nobody."""
    connection = _connection(Endpoint("configs/a", "https://a", CA))
    mixed = Presented(certificate=PAIR.certificate, private_key=OTHER.private_key)
    with pytest.raises(FailedPrecondition, match="client certificate of configs/a cannot be used") as refusal:
        await connection._current_pool(mixed)
    assert (refusal.value.reason, refusal.value.metadata) == ("CREDENTIAL_UNUSABLE", {"subject": "configs/a"})
    assert await connection._current_pool(PAIR.presented) is not None


class Scripted(Connection):
    """A connection whose exchanges are answered here, before anything is connected."""

    def __init__(self, endpoint: Endpoint, credential: Credential, connections: int = 1) -> None:
        """Take what a connection takes."""
        super().__init__(endpoint, credential, Transport(0.05, 1, connections, trust_env=False))
        self.shown: list[tuple[Any, Presented]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.accepts: set[str] = {"token"}

    async def _exchange(self, client: Any, *args: Any) -> Answer:
        presented = args[-1]
        self.shown.append((client, presented))
        await self.go_on.wait()
        accepted = presented.token in self.accepts
        return Answer(200 if accepted else 401, {}, b"{}" if accepted else STATUS)


class Rotating:
    """A credential that is another one each time it is read."""

    renewed = True
    what = "the rotating token"

    def __init__(self, *tokens: str) -> None:
        """Take the tokens, in their order; the last one stays."""
        self.tokens = list(tokens)

    def read(self) -> Presented:
        """The next one."""
        return Presented(self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0])


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["token"], ["token"]),
        (["old", "token"], ["old", "token"]),
        (["old"], ["old"]),
        (["old", "older", "token"], ["old", "older"]),
    ],
)
async def test_a_401_is_tried_again_with_a_rotated_token(tokens: list[str], shown: list[str]) -> None:
    """A refused token is tried once more if it was rotated meanwhile, and never the same one twice."""
    connection = Scripted(Endpoint("configs/a", "https://a", CA), Rotating(*tokens))
    if shown[-1] == "token":
        assert (await connection.post("/x", {}, connection.attempt("x"))).status == 200
    else:
        with pytest.raises(Unauthorized):
            await connection.post("/x", {}, connection.attempt("x"))
    assert [presented.token for _, presented in connection.shown] == shown


async def test_a_get_takes_whatever_is_answered() -> None:
    """A GET answers with the refusal itself, for its caller to judge."""
    connection = Scripted(Endpoint("configs/a", "https://a", CA), Stored("the stored token", Presented("no")))
    answer = await connection.get("/version", connection.attempt("its version"))
    assert (answer.status, answer.body) == (401, STATUS)


async def test_a_refusal_can_be_an_answer() -> None:
    """Who says which refusals it judges itself gets those as answers, after the second try with a rotated token."""
    connection = Scripted(Endpoint("configs/a", "https://a", CA), Rotating("old", "older"))
    request = Request("DELETE", "/x", {"kind": "DeleteOptions"})
    answer = await connection.call(request, connection.attempt("x"), judged=(401,))
    assert (answer.status, len(connection.shown)) == (401, 2)
    with pytest.raises(Unauthorized):
        await connection.call(request, connection.attempt("x"), judged=(404,))


class Streamed:
    """An answer that comes in pieces, and may break off."""

    def __init__(self, *pieces: bytes | Exception, status: int = 200) -> None:
        """Take the pieces."""
        self.pieces = pieces
        self.status = status
        self.headers: dict[str, str] = {}
        self.content = self
        self.closed = False

    async def iter_any(self) -> AsyncIterator[bytes]:
        """The pieces, as they came."""
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """The same."""
        async for piece in self.iter_any():
            yield piece

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class Streaming(Scripted):
    """A connection to which one answer comes in pieces."""

    def __init__(self, streamed: Streamed) -> None:
        """Take it."""
        super().__init__(Endpoint("configs/a", "https://a", CA), Stored("the stored token", Presented("token")))
        self.streamed = streamed

    async def _open(self, *_: Any) -> Any:
        return self.streamed

    async def read(self, longest: int = 10) -> list[bytes]:
        """All its lines."""
        request = Request("GET", "/x?watch=1", longest=longest)
        async with self.lines(request, self.attempt("x"), 1) as lines:
            return [line async for line in lines]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"o", b"ne\nt", b"wo", b"\n"], [b"one", b"two"]),
        ([b"one\n", b"half"], [b"one"]),
        ([b"0123456789\n" * 3], [b"0123456789"] * 3),
    ],
)
async def test_lines_come_whole(pieces: list[bytes], lines: list[bytes]) -> None:
    """However an answer is cut on its way, its lines come whole; what has no end is none. Then it is closed."""
    connection = Streaming(Streamed(*pieces))
    assert await connection.read() == lines
    assert connection.streamed.closed


@pytest.mark.parametrize(
    ("streamed", "reason"),
    [
        (Streamed(b"one\n", aiohttp.ClientPayloadError("cut")), "KUBERNETES_CONNECTION_LOST"),
        (Streamed(b"one\n", TimeoutError()), "KUBERNETES_TIMED_OUT"),
        (Streamed(b"01234567890"), "KUBERNETES_CONNECTION_LOST"),
        (Streamed(b"0123456789", b"0\n"), "KUBERNETES_CONNECTION_LOST"),
        (Streamed(STATUS, status=401), "KUBERNETES_UNAUTHORIZED"),
        (Streamed(STATUS, status=500), "KUBERNETES_UNAVAILABLE"),
        (Streamed(b"{}", status=204), "NOT_KUBERNETES"),
        (Streamed(TimeoutError(), status=500), "KUBERNETES_TIMED_OUT"),
    ],
)
async def test_lines_that_break_off_are_an_error(streamed: Streamed, reason: str) -> None:
    """A watch that is refused, breaks off or has a line without end is one of our errors, and makes room for others."""
    connection = Streaming(streamed)
    for _ in range(2):
        with pytest.raises(KubevendError) as refusal:
            await connection.read(longest=100 if streamed.status != 200 else 10)
        assert refusal.value.reason == reason
    assert streamed.closed


async def test_more_calls_than_connections_wait_and_then_give_up() -> None:
    """Where all connections are busy for as long as a connection may take, the call is told so, and the next one goes
    through once there is a free one.
    """
    credential = Stored("the stored token", Presented("token"))
    connection = Scripted(Endpoint("configs/a", "https://a", CA), credential)
    connection.go_on.clear()
    attempt = connection.attempt("x")
    first = asyncio.create_task(connection.post("/x", {}, attempt))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as refusal:
        await connection.post("/x", {}, attempt)
    assert refusal.value.reason == "CLUSTER_BUSY"
    connection.go_on.set()
    assert (await first).status == 200
    assert (await connection.post("/x", {}, attempt)).status == 200


async def test_what_is_under_way_ends_where_it_began(ca_file: Path) -> None:
    """A CA that changes, and a connection that is retired, close the connections of a call only once it has ended."""
    endpoint = Endpoint("configs/a", "https://a", ca_file=WatchedFile(ca_file))
    connection = Scripted(endpoint, Stored("the stored token", Presented("token")), connections=2)
    connection.go_on.clear()
    attempt = connection.attempt("x")
    first = asyncio.create_task(connection.post("/x", {}, attempt))
    await asyncio.sleep(0)
    old = connection._pool
    assert old is not None
    session = old.client.rest_client._create_pool_manager()
    old.client.rest_client.pool_manager = session
    _write(ca_file, OTHER_CA)
    second = asyncio.create_task(connection.post("/x", {}, attempt))
    await asyncio.sleep(0)
    await connection.retire()
    new = connection._pool
    assert new is not old
    assert not session.closed
    assert [client for client, _ in connection.shown] == [old.client, new.client if new else None]
    connection.go_on.set()
    await asyncio.gather(first, second)
    assert session.closed


# The connections of configs.


def _clusters(folder: Path) -> Clusters:
    own = OwnCluster(folder, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    rules = ConfigRules(own.host, {str(folder): (HOST,)})
    return Clusters(own, rules, Transport(1, 1, 1, trust_env=False))


async def test_each_kind_of_credential_is_shown_as_it_is(tmp_path: Path) -> None:
    """A config's connection goes to its host with its credential: the pod's own, a stored one, or one in files."""
    PAIR.write(tmp_path)
    _write(tmp_path / "token", "token\n")
    certificate, key = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")
    kinds: list[tuple[OfConfig, Presented]] = [
        (OfConfig("in_cluster"), Presented("token")),
        (OfConfig("token_file", token_file=str(tmp_path / "token")), Presented("token")),
        (OfConfig("service_account_jwt", service_account_jwt="stored"), Presented("stored")),
        (PAIR.credential, PAIR.presented),
        (
            OfConfig("client_certificate_files", certificate_file=certificate, private_key_file=key),
            PAIR.presented,
        ),
    ]
    clusters = _clusters(tmp_path)
    for stored, presented in kinds:
        host = "" if stored.kind == "in_cluster" else HOST
        connection = clusters.connect(config(kubernetes_host=host, credential=stored))
        assert connection.credential.read() == presented
        assert connection.endpoint.host == (host or "https://10.96.0.1:443")
        assert connection.credential.renewed == (stored.kind not in {"service_account_jwt", "client_certificate"})
        stranger = clusters.connect(config(kubernetes_host=host, credential=stored), anonymous=True)
        assert stranger.credential.read() == NOTHING


async def test_a_file_is_held_against_the_settings_again(tmp_path: Path) -> None:
    """A config whose file the settings no longer allow, or not to its host, is not used."""
    clusters = _clusters(tmp_path)
    for path, host in (("/etc/passwd", HOST), (str(tmp_path / "token"), "https://evil.com")):
        of = config(kubernetes_host=host, credential=OfConfig("token_file", token_file=path))
        with pytest.raises(FailedPrecondition, match="cannot be read") as refusal:
            clusters.connect(of).credential.read()
        assert (refusal.value.reason, refusal.value.metadata) == ("CREDENTIAL_UNUSABLE", {"subject": path})


async def test_a_config_is_connected_once_for_each_version() -> None:
    """A config's connection is used again until the config changes or goes away; then it is retired."""
    clusters = ApiClusters(FakeApi())
    before, after, other = config(), config(etag="e2"), config(name="configs/other")
    first = clusters.of(before)
    assert clusters.of(before) is first
    assert clusters.of(other) is not first
    second = clusters.of(after)
    assert second is not first
    clusters.forget("configs/nothing")
    clusters.forget("configs/other")
    await clusters.close()
    assert [made.retired for made in clusters.made] == [True, True, True]
    assert clusters.of(after) is not second

"""One cluster, called through the official client, without its models on the way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog
from kubernetes.aio.client import ApiClient, Configuration

from kubevend_server.certificates import authorities_fault, only_certificates
from kubevend_server.cluster import failures
from kubevend_server.cluster.credentials import Credential, Presented, unusable
from kubevend_server.cluster.failures import Attempt
from kubevend_server.cluster.trust import Endpoint, load_certificate
from kubevend_server.errors import FailedPrecondition

_LONGEST_ANSWER = 1 << 20

JSON = "application/json"

_NO_ANSWER = (aiohttp.ClientError, TimeoutError, ValueError)
"""What comes of a request to which no whole answer comes."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Transport:
    """How clusters are called.

    Attributes:
        connect_timeout: seconds, for a connection; as long is waited for a free one, where all are busy.
        request_timeout: seconds, for the whole request.
        max_connections: at once, to one cluster. What is more waits.
        trust_env: whether HTTPS_PROXY and its like are heeded.
    """

    connect_timeout: float
    request_timeout: float
    max_connections: int
    trust_env: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an API server.

    Attributes:
        verb: of HTTP.
        path: from the host on, with its query.
        body: what goes as JSON, or None.
        accept: in which form the answer shall come.
        longest: bytes that the answer may have; of one line, where it is read in lines.
    """

    verb: str
    path: str
    body: Mapping[str, Any] | None = None
    accept: str = JSON
    longest: int = _LONGEST_ANSWER


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API server."""

    status: int
    headers: Any = field(repr=False)
    body: bytes = field(repr=False)


def _no_redirects() -> aiohttp.TraceConfig:
    """Refuse redirects, which the client would follow, with the token that a request shows or reviews."""

    async def refuse(*_: object) -> None:
        raise failures.Redirected

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    return tracing


async def _whole(response: aiohttp.ClientResponse, request: Request, attempt: Attempt) -> Answer:
    """Read an answer to its end.

    Raises:
        KubevendError: it breaks off, or is too long.
    """
    body = bytearray()
    try:
        async for chunk in response.content.iter_chunked(1 << 16):
            body += chunk
            if len(body) > request.longest:
                response.close()
                raise aiohttp.ClientPayloadError("the answer is too long")
    except _NO_ANSWER as error:
        raise failures.from_exception(error, attempt) from error
    return Answer(response.status, response.headers, bytes(body))


async def _lines(response: aiohttp.ClientResponse, request: Request, attempt: Attempt) -> AsyncIterator[bytes]:
    """The lines of an answer, as they come; what has no end of its own at the answer's end is left out.

    Raises:
        KubevendError: it breaks off, or a line is too long.
    """
    # Grows in place: what came before is not looked at again for each byte more.
    rest = bytearray()
    try:
        async for chunk in response.content.iter_any():
            *ended, last = chunk.split(b"\n")
            for part in ended:
                rest += part
                _check_line(rest, request)
                line, rest = bytes(rest), bytearray()
                yield line
            rest += last
            _check_line(rest, request)
    except _NO_ANSWER as error:
        raise failures.from_exception(error, attempt) from error


def _check_line(line: bytearray, request: Request) -> None:
    if len(line) > request.longest:
        raise aiohttp.ClientPayloadError("the line is too long")


class _Pool:
    """The connections that were made with the same authorities and the same client certificate."""

    def __init__(self, endpoint: Endpoint, authorities: str, presented: Presented, transport: Transport) -> None:
        """Prepare it; nothing is connected yet.

        Raises:
            FailedPrecondition: the authorities or the client certificate cannot be used.
        """
        self.made_from = (authorities, presented.certificate)
        self._in_flight = 0
        self._retired = False
        configuration = Configuration(
            host=endpoint.host,
            connection_pool_maxsize=transport.max_connections,
            client_session_kwargs={
                "trust_env": transport.trust_env,
                "read_bufsize": 1 << 16,
                "cookie_jar": aiohttp.DummyCookieJar(),
                # A small answer could unfold to any size; none is asked for compressed, and none is unfolded.
                "auto_decompress": False,
            },
            trace_configs=[_no_redirects()],
        )
        fault = authorities_fault(authorities) if authorities else ""
        if fault:
            raise unusable(f"What is in {endpoint.trusts} cannot be trusted: {fault}.", endpoint.label)
        # Only the certificates: text around them, which PEM allows, is not always what OpenSSL's binding takes.
        configuration.ca_cert_data = only_certificates(authorities) if authorities else None
        try:
            self.client = ApiClient(configuration)
        except (ssl.SSLError, ValueError) as error:
            raise unusable(f"What is in {endpoint.trusts} cannot be trusted: {error}.", endpoint.label) from error
        if presented.certificate:
            try:
                load_certificate(self.client.rest_client.ssl_context, presented)
            except (ssl.SSLError, ValueError) as error:
                raise unusable(
                    f"The client certificate of {endpoint.label} cannot be used with its key: {error}.", endpoint.label
                ) from error
        self.client.user_agent = "kubevend"

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[ApiClient]:
        """Keep it open for a request."""
        self._in_flight += 1
        try:
            yield self.client
        finally:
            self._in_flight -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Close it once what is under way is done."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._in_flight:
            await self.client.close()


class Connection:
    """The way to one API server, with the credential to call with.

    Authorities and credentials that change in their files are used from the next call on: what is under way ends on the
    connections on which it began.
    """

    def __init__(self, endpoint: Endpoint, credential: Credential, transport: Transport) -> None:
        """Take where, with what, and how; nothing is connected yet."""
        self.endpoint = endpoint
        self.credential = credential
        self._transport = transport
        self._free = asyncio.Semaphore(transport.max_connections)
        self._pool: _Pool | None = None
        self._rejected: tuple[str, str] | None = None
        self._told = ""
        self._calls = 0
        self._retired = False

    def attempt(self, what: str, **more: Any) -> Attempt:
        """Describe a request, for the words of its errors. `more` is as in `Attempt`."""
        endpoint = self.endpoint
        place = (endpoint.label, endpoint.host, endpoint.trusts, self.credential.what, what)
        return Attempt(*place, given=endpoint.given, **more)

    async def post(self, path: str, body: Mapping[str, Any], attempt: Attempt) -> Answer:
        """Send one POST, as `call` does.

        Raises:
            KubevendError: whatever goes wrong, as `failures` tells it.
        """
        return await self.call(Request("POST", path, body), attempt)

    async def call(self, request: Request, attempt: Attempt, judged: Collection[int] = ()) -> Answer:
        """Send one request, under the Audit-Id of the attempt, which the API server adopts.

        A 401 is tried once more if the credential has been rotated meanwhile: a refused request did nothing.

        Args:
            request: what to send.
            attempt: what it is, for the words of its errors.
            judged: the statuses of refusals that are answers too, for the caller to judge.

        Raises:
            KubevendError: whatever else goes wrong, as `failures` tells it.
        """
        presented = self.credential.read()
        answer = await self._send(request, attempt, presented)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            rotated = self.credential.read()
            if rotated != presented:
                presented = rotated
                answer = await self._send(request, attempt, presented)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES and answer.status not in judged:
            raise failures.from_status(answer.status, answer.headers, answer.body, attempt, presented)
        return answer

    @asynccontextmanager
    async def lines(self, request: Request, attempt: Attempt, seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send one request, and read its answer line by line as it comes: a watch. It keeps a connection busy.

        Args:
            request: what to send.
            attempt: what it is, for the words of its errors.
            seconds: for the whole answer.

        Raises:
            KubevendError: it is refused, or breaks off before its end, also while lines are read.
        """
        presented = self.credential.read()
        async with self._client(attempt, presented) as client:
            response = await self._open(client, request, attempt, presented, seconds)
            try:
                if response.status != HTTPStatus.OK:
                    answer = await _whole(response, request, attempt)
                    raise failures.from_status(answer.status, answer.headers, answer.body, attempt, presented)
                yield _lines(response, request, attempt)
            finally:
                # What was not read to its end cannot be used again.
                response.close()

    async def get(self, path: str, attempt: Attempt) -> Answer:
        """Send one GET, and take whatever is answered.

        Raises:
            KubevendError: nothing is, as `failures` tells it.
        """
        return await self._send(Request("GET", path), attempt, self.credential.read())

    async def retire(self) -> None:
        """Close the connections once what is under way is done."""
        self._retired = True
        await self._close_if_done()

    async def _send(self, request: Request, attempt: Attempt, presented: Presented) -> Answer:
        async with self._client(attempt, presented) as client:
            return await self._exchange(client, request, attempt, presented)

    @asynccontextmanager
    async def _client(self, attempt: Attempt, presented: Presented) -> AsyncIterator[ApiClient]:
        """One of as many connections as the settings allow, kept open while it is used."""
        self._calls += 1
        try:
            await self._take_turn(attempt)
            try:
                pool = await self._current_pool(presented)
                async with pool.in_use() as client:
                    yield client
            finally:
                self._free.release()
        finally:
            self._calls -= 1
            await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._calls and self._pool is not None:
            # Whoever has held on to this connection finds it as good as new, and closes it again.
            pool, self._pool = self._pool, None
            await pool.retire()

    async def _take_turn(self, attempt: Attempt) -> None:
        """Wait for a free connection, of which there are as many as the settings allow."""
        try:
            async with asyncio.timeout(self._transport.connect_timeout if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError as error:
            raise failures.busy(attempt, self._transport.max_connections) from error

    async def _current_pool(self, presented: Presented) -> _Pool:
        """The pool for what the files hold now.

        What was good a moment ago goes on where what there is now cannot be used: it may be half written.
        """
        old = self._pool
        try:
            material = (self.endpoint.authorities(), presented.certificate)
            if old is not None and material in (old.made_from, self._rejected):
                return old
            self._rejected = material
            self._pool = _Pool(self.endpoint, material[0], presented, self._transport)
        except FailedPrecondition as error:
            if old is None:
                raise
            if error.message != self._told:
                self._told = error.message
                _log.warning("cluster_files_unusable", config=self.endpoint.label, error=error.message)
            return old
        self._told = ""
        if old is not None:
            _log.info("cluster_files_changed", config=self.endpoint.label)
            await old.retire()
        return self._pool

    async def _exchange(self, client: ApiClient, request: Request, attempt: Attempt, presented: Presented) -> Answer:
        response = await self._open(client, request, attempt, presented, self._transport.request_timeout)
        return await _whole(response, request, attempt)

    async def _open(
        self, client: ApiClient, request: Request, attempt: Attempt, presented: Presented, seconds: float
    ) -> aiohttp.ClientResponse:
        """Send a request; its answer's status and headers are there, and its body is to be read.

        Raises:
            KubevendError: there is none.
        """
        headers = {
            **client.default_headers,
            "Accept": request.accept,
            "Accept-Encoding": "identity",
            "Content-Type": JSON,
        }
        if presented.token:
            headers["Authorization"] = f"Bearer {presented.token}"
        if attempt.audit_id:
            headers["Audit-Id"] = attempt.audit_id
        content = dict(request.body) if request.body is not None else None
        limits = aiohttp.ClientTimeout(total=seconds, connect=self._transport.connect_timeout)
        url = self.endpoint.host + request.path
        try:
            answer = await client.call_api(request.verb, url, headers, content, _request_timeout=limits)
        except _NO_ANSWER as error:
            raise failures.from_exception(error, attempt) from error
        response: aiohttp.ClientResponse = answer.response
        return response

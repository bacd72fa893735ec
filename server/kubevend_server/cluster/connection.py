"""One cluster, called through the official client, without its models on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from kubevend_server.cluster import failures
from kubevend_server.cluster.credentials import BearerToken
from kubevend_server.cluster.failures import Attempt

_LONGEST_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True)
class Transport:
    """How clusters are called.

    Attributes:
        connect_timeout: seconds, for a connection, the wait for a free one included.
        request_timeout: seconds, for the whole request.
        max_connections: at once, to one cluster. What is more waits.
        trust_env: whether HTTPS_PROXY and its like are heeded.
    """

    connect_timeout: float
    request_timeout: float
    max_connections: int
    trust_env: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a cluster is, and whom to trust.

    Attributes:
        host: an https URL.
        ca_data: PEM, or empty.
        ca_file: a path, or empty. Where both are empty the system's authorities count.
    """

    host: str
    ca_data: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success of the API server."""

    headers: Any
    body: bytes


def _no_redirects() -> aiohttp.TraceConfig:
    """Refuse redirects, which the client would follow, with the token that a request shows or reviews."""

    async def refuse(*_: object) -> None:
        raise failures.Redirected

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    return tracing


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > _LONGEST_ANSWER:
            response.close()
            raise aiohttp.ClientPayloadError("the answer is too long")
    return body


class Connection:
    """A pool of connections to one API server, with the credential to call with."""

    def __init__(self, endpoint: Endpoint, credential: BearerToken, transport: Transport) -> None:
        """Prepare the pool; nothing is connected yet.

        Raises:
            ssl.SSLError: the CA is no PEM certificate.
            OSError: the CA file cannot be read.
        """
        self.host = endpoint.host
        self._credential = credential
        self._timeout = aiohttp.ClientTimeout(total=transport.request_timeout, connect=transport.connect_timeout)
        configuration = Configuration(
            host=endpoint.host,
            ssl_ca_cert=endpoint.ca_file or None,
            ca_cert_data=endpoint.ca_data or None,
            connection_pool_maxsize=transport.max_connections,
            client_session_kwargs={
                "trust_env": transport.trust_env,
                "read_bufsize": 1 << 16,
                # A small answer could unfold to any size; none is asked for compressed, and none is unfolded.
                "auto_decompress": False,
            },
            trace_configs=[_no_redirects()],
        )
        self._client = ApiClient(configuration)
        self._client.user_agent = "kubevend"
        self._in_flight = 0
        self._retired = False

    async def post(self, path: str, body: Mapping[str, Any], attempt: Attempt) -> Answer:
        """Send one POST, under the Audit-Id of the attempt, which the API server adopts.

        A 401 is tried once more if the credential has been rotated meanwhile: a refused request did nothing.

        Raises:
            KubevendError: whatever goes wrong, as `failures` tells it.
        """
        self._in_flight += 1
        try:
            token = self._credential.read()
            try:
                return await self._post(path, body, attempt, token)
            except failures.Unauthorized:
                rotated = self._credential.read()
                if rotated == token:
                    raise
                return await self._post(path, body, attempt, rotated)
        finally:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                await self._client.close()

    async def retire(self) -> None:
        """Close the pool once what is under way is done."""
        self._retired = True
        if not self._in_flight:
            await self._client.close()

    async def _post(self, path: str, body: Mapping[str, Any], attempt: Attempt, token: str) -> Answer:
        headers = {
            **self._client.default_headers,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {token}",
            "Audit-Id": attempt.audit_id,
        }
        try:
            response = await self._client.call_api(
                "POST", self.host + path, headers, dict(body), _request_timeout=self._timeout
            )
            answer = Answer(response.headers, await _read(response.response))
        except (aiohttp.ClientError, TimeoutError, UnicodeError) as error:
            raise failures.from_exception(error, attempt) from error
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise failures.from_status(response.status, answer.headers, answer.body, attempt)
        return answer

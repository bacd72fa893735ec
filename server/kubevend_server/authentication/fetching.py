"""Documents that issuers publish, over HTTPS: verified, bounded, and from nowhere but where they were asked for."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from kubevend_server.certificates import only_certificates
from kubevend_server.files import WatchedFile, why_unreadable
from kubevend_server.text import shown

_LONGEST_DOCUMENT = 256 << 10
_LONGEST_FAULT = 300


class FetchError(Exception):
    """A document cannot be had; the message says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches documents of one issuer.

    A connection is made for each, since they are minutes apart. The environment (HTTPS_PROXY, ~/.netrc) counts for
    nothing.

    Attributes:
        ca_file: the authorities that vouch for its servers, PEM, read again when they change; None for the system's.
        seconds: for a whole document.
    """

    ca_file: WatchedFile | None = None
    seconds: float = 10.0

    async def fetch(self, url: str) -> bytes:
        """Fetch a document, of at most 256 KiB.

        Args:
            url: of https.

        Raises:
            FetchError: there is none.
        """
        if not url.startswith("https://"):
            raise FetchError(f"{shown(url, _LONGEST_FAULT)} is no https URL")
        try:
            # The system's authorities are many, and reading them takes some 20 ms.
            connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(self._trust))
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(self.seconds),
                    trust_env=False,
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as session,
                session.get(url, headers=_HEADERS, allow_redirects=False) as response,
            ):
                return await _body(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = shown(str(error) or "no answer in time", _LONGEST_FAULT)
            raise FetchError(f"{shown(url, _LONGEST_FAULT)}: {why}") from error

    def _trust(self) -> ssl.SSLContext:
        if self.ca_file is None:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cadata=only_certificates(self.ca_file.read()))
        except (OSError, UnicodeDecodeError) as error:
            raise FetchError(f"the CA file {self.ca_file.path} cannot be read ({why_unreadable(error)})") from error
        except ValueError as error:
            raise FetchError(f"the CA file {self.ca_file.path} holds no certificates in PEM") from error


_HEADERS = {
    # An API server gives its keys as nothing but application/jwk-set+json, and 406 to who wants only the other.
    "Accept": "application/json, application/jwk-set+json",
    "Accept-Encoding": "identity",
    "User-Agent": "kubevend",
}


async def _body(response: aiohttp.ClientResponse) -> bytes:
    url = shown(str(response.url), _LONGEST_FAULT)
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        raise FetchError(f"{url} redirects, which is not followed: write the address that it leads to")
    if response.status != HTTPStatus.OK:
        raise FetchError(f"{url} answers {response.status}")
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > _LONGEST_DOCUMENT:
            raise FetchError(f"{url} answers with more than {_LONGEST_DOCUMENT >> 10} KiB")
    return bytes(body)

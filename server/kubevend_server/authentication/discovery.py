"""Where an issuer's keys are, and what they are.

See OpenID Connect Discovery 1.0, sections 3 and 4 (https://openid.net/specs/openid-connect-discovery-1_0.html).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from kubevend_server.authentication.fetching import FetchError
from kubevend_server.authentication.json_web_keys import VerificationKey, read_keys
from kubevend_server.text import shown

_LONGEST_ISSUER = 200
_LONGEST_URL = 300


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """The keys that an issuer publishes.

    Attributes:
        issuer: its URL, which is the `iss` of its tokens.
        jwks_url: where its keys are; empty to ask its discovery document.
        algorithms: those that its tokens may be signed with.
        fetch: fetches what is at a URL, or raises FetchError.
    """

    issuer: str
    jwks_url: str
    algorithms: frozenset[str]
    fetch: Callable[[str], Awaitable[bytes]]

    async def read(self) -> tuple[VerificationKey, ...]:
        """Fetch them.

        Raises:
            FetchError: they cannot be had; the message says why.
        """
        url = self.jwks_url or await self._discover()
        try:
            return read_keys(await self.fetch(url), self.algorithms)
        except ValueError as error:
            raise FetchError(f"{shown(url, _LONGEST_URL)}: {error}") from error

    async def _discover(self) -> str:
        url = self.issuer.removesuffix("/") + "/.well-known/openid-configuration"
        try:
            found = msgspec.json.decode(await self.fetch(url), type=_Discovery)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FetchError(f"{url} is no discovery document (JSON with issuer and jwks_uri)") from error
        if found.issuer != self.issuer:
            raise FetchError(
                f"{url} is of the issuer {shown(found.issuer, _LONGEST_ISSUER)!r}, which is not exactly {self.issuer!r}"
            )
        return found.jwks_uri


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str

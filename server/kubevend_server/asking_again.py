"""Having open streams ask again whether they may go on, when roles, configs or policies have changed."""

from __future__ import annotations

import asyncio

from kubevend_server.catalog import Catalog
from kubevend_server.policy_folder import PolicySource
from kubevend_server.streams import Streams

_LOOK_SECONDS = 1.0
_AT_ONCE = 20
_PAUSE_SECONDS = 0.05
"""Between so many streams: a change of the policies is not to stop the calls of others."""


class AskingAgain:
    """Looks every second whether what decides is still the same."""

    def __init__(self, streams: Streams, catalog: Catalog, policies: PolicySource) -> None:
        """Take who asks, and what decides."""
        self._streams = streams
        self._catalog = catalog
        self._policies = policies
        self._seen = self._version()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            version = self._version()
            if version != self._seen:
                self._seen = version
                await self._have_them_ask()

    async def _have_them_ask(self) -> None:
        for number, _ in enumerate(self._streams.ask_again(), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_SECONDS)

    def _version(self) -> tuple[int, object]:
        return self._catalog.version, self._policies.current

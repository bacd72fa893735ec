"""Having open streams ask again whether they may go on, when roles, configs or policies have changed."""

from __future__ import annotations

import asyncio

import structlog

from kubevend_server.catalog import Catalog
from kubevend_server.policy_folder import PolicySource
from kubevend_server.streams import Streams

_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.001
"""After each stream, so that a change of the policies stops no call of others: 1,000 streams take a second."""

_log = structlog.get_logger()


class AskingAgain:
    """Looks every second whether what decides is still the same.

    Where it is not, each stream is looked at without a call: a change that takes nothing away, which most are, asks no
    cluster about any caller, and counts for nobody's limits. Only a stream that looks denied asks by a call, and that
    leaves its event.
    """

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
            await self.look()

    async def look(self) -> None:
        """Look once."""
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        for stream in self._streams.all():
            try:
                allowed = await stream.looks_allowed()
            except Exception:  # noqa: BLE001 - the call finds out, and tells it where it belongs
                _log.exception("stream_not_looked_at", request_id=stream.first.request_id)
                allowed = False
            if not allowed:
                stream.ask()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _version(self) -> tuple[int, object]:
        return self._catalog.version, self._policies.current

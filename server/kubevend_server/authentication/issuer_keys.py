"""An issuer's keys, kept fresh, and what holds while the issuer cannot be reached."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import structlog

from kubevend_server.authentication.fetching import FetchError
from kubevend_server.authentication.flights import Flights
from kubevend_server.authentication.json_web_keys import VerificationKey
from kubevend_server.errors import Unauthenticated, Unavailable

_LOOK_AGAIN_SECONDS = 10.0
"""The least time between two looks at an issuer's keys that calls bring about, whatever their tokens say."""
_MOST_LOGGED = 20

_log = structlog.get_logger()


class IssuerKeys:
    """The keys of one issuer.

    They are fetched again every `refresh` seconds, and at once where a token names a key that is not among them, though
    not within 10 s of the last time. While that fails, what was fetched counts until it is `outage` seconds old.
    """

    def __init__(
        self,
        issuer: str,
        read: Callable[[], Awaitable[tuple[VerificationKey, ...]]],
        refresh: float,
        outage: float,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take what the settings call the issuer, what fetches its keys, and both times; nothing is fetched yet."""
        self.issuer = issuer
        self._read = read
        self._refresh = refresh
        self._outage = outage
        self._monotonic = monotonic
        self._sleep = sleep
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched = -math.inf
        self._tried = -math.inf
        self._fault = ""
        self._flights = Flights[str, None]()

    @property
    def age(self) -> float:
        """The seconds since the keys were fetched; infinite where they never were."""
        return self._monotonic() - self._fetched

    async def run(self) -> None:
        """Keep them fresh, until cancelled."""
        while True:
            try:
                await self._flights.join(self.issuer, self._fetch)
            except Exception:  # noqa: BLE001 - it must not end
                _log.exception("background_work_failed", work="issuer_keys", issuer=self.issuer)
            await self._sleep(_LOOK_AGAIN_SECONDS if self._fault else max(1.0, self._refresh - self.age))

    async def find(self, kid: str, algorithm: str) -> Any:
        """The public key of that name for that algorithm; without a name, the only one for it.

        Raises:
            Unauthenticated: there is none.
            Unavailable: that cannot be told, since the issuer cannot be reached.
        """
        if not self._still_count():
            await self._flights.join(self.issuer, self._look)
        if not self._still_count():
            raise self._unavailable("its keys are not known")
        found = self._choose(kid, algorithm)
        if found is None:
            await self._flights.join(self.issuer, self._look)
            found = self._choose(kid, algorithm)
        if found is not None:
            return found.public
        if self._fault:
            raise self._unavailable("the token's key is not among those that are known")
        raise self._unknown(kid, algorithm)

    def _still_count(self) -> bool:
        """Whether the keys that are known still count."""
        return self.age < self._outage

    def _choose(self, kid: str, algorithm: str) -> VerificationKey | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and (not kid or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 else None

    async def _look(self) -> None:
        """Fetch the keys, unless that was tried a moment ago."""
        if self._wait() <= 0:
            await self._fetch()

    def _wait(self) -> float:
        """Seconds until calls may bring about the next look."""
        return self._tried + _LOOK_AGAIN_SECONDS - self._monotonic()

    async def _fetch(self) -> None:
        self._tried = began = self._monotonic()
        try:
            keys = await self._read()
        except FetchError as error:
            if str(error) != self._fault:
                _log.warning(
                    "issuer_not_reached", issuer=self.issuer, error=str(error), keys_still_count=self._still_count()
                )
            self._fault = str(error)
            return
        if self._fault or [key.kid for key in keys] != [key.kid for key in self._keys] or not keys:
            _log.info("issuer_keys", issuer=self.issuer, keys=[key.kid for key in keys[:_MOST_LOGGED]])
        self._keys, self._fetched, self._fault = keys, began, ""

    def _unavailable(self, why: str) -> Unavailable:
        wait = max(1.0, self._wait())
        return Unavailable(
            "CALLER_NOT_CHECKED",
            f"Whose token it is could not be checked: the issuer {self.issuer!r} cannot be reached, and {why}. Try "
            f"again in {math.ceil(wait)} s; the server's operator finds more in its log.",
            metadata={"issuer": self.issuer},
            retry_after=timedelta(seconds=wait),
        )

    def _unknown(self, kid: str, algorithm: str) -> Unauthenticated:
        if not kid:
            return Unauthenticated(
                "TOKEN_KEY_UNKNOWN",
                f"The bearer token names no key (kid), and the issuer {self.issuer!r} has not exactly one for "
                f"{algorithm}: have it name the key that it is signed with.",
                metadata={"issuer": self.issuer},
            )
        wait = max(1.0, self._wait())
        return Unauthenticated(
            "TOKEN_KEY_UNKNOWN",
            f"The issuer {self.issuer!r} has no key of the bearer token's name (kid) for {algorithm}: get a fresh "
            f"token from it. If it has just begun to use the key, try again in {math.ceil(wait)} s.",
            metadata={"issuer": self.issuer},
            retry_after=timedelta(seconds=wait),
        )

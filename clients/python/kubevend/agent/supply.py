"""The tokens: one source for all outputs that ask for the same."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from functools import partial

from kubevend.agent.clusters import Place, find
from kubevend.agent.config import Cluster, Request
from kubevend.agent.keeping import Keeper
from kubevend.agent.log import Log
from kubevend.client import Client
from kubevend.connection import Settings
from kubevend.errors import KubevendError
from kubevend.source import TokenSource
from kubevend.tokens import Token
from kubevend.upkeep import now
from kubevend.v1 import lease_service_pb2

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_REVOCATION_SECONDS = 5.0


class Supply:
    """Gets the tokens, and tells the keepers, in the main thread."""

    def __init__(
        self, settings: Settings, keepers: Iterable[Keeper], post: Callable[[Callable[[], object]], None], log: Log
    ) -> None:
        """Take whom to ask, whom to tell, and how to have something called by the main thread."""
        self._client = Client(settings)
        self._post = post
        self._log = log
        self._leases: dict[str, float] = {}
        self._closing = threading.Event()
        self._keepers: dict[Request, list[Keeper]] = {}
        for keeper in keepers:
            self._keepers.setdefault(keeper.output.request, []).append(keeper)
        self._sources = [self._source(request) for request in self._keepers]
        self._locators = self._make_locators()

    def start(self) -> None:
        """Begin to ask. Does not wait."""
        for source in self._sources:
            with contextlib.suppress(KubevendError):  # that there is none yet; listeners are told of what goes wrong
                source.token(0)
        for locator in self._locators:
            locator.start()

    def close(self, *, revoke: bool) -> None:
        """Ask no more, and end the leases whose tokens are still good, if that is wanted."""
        self._closing.set()
        for source in self._sources:
            source.close()
        if revoke:
            self._revoke()
        self._client.close()  # which ends what locators wait for
        for locator in self._locators:
            locator.join()

    def _source(self, request: Request) -> TokenSource:
        def renewed(token: Token) -> None:
            good_until = now() + token.granted_ttl.total_seconds()
            self._leases[token.lease] = good_until  # at once: the main thread may be stopping
            self._post(partial(self._renewed, request, token, good_until))

        def revoked(lease: str, message: str) -> None:
            self._post(partial(self._revoked, request, lease, message))

        def failed(error: KubevendError) -> None:
            self._post(partial(self._failed, request, error))

        return TokenSource(
            **request.fields(), client=self._client, on_renewed=renewed, on_revoked=revoked, on_failed=failed
        )

    def _renewed(self, request: Request, token: Token, good_until: float) -> None:
        for lease, end in [*self._leases.items()]:
            if end <= now():
                del self._leases[lease]
        for keeper in self._keepers[request]:
            keeper.renewed(token, good_until)

    def _revoked(self, request: Request, lease: str, message: str) -> None:
        self._log.warning("revoked", role=request.role, lease=lease, message=message)
        self._leases.pop(lease, None)
        for keeper in self._keepers[request]:
            keeper.revoked(lease)

    def _failed(self, request: Request, error: KubevendError) -> None:
        tell_failure(self._log, request.role, error)
        for keeper in self._keepers[request]:
            keeper.failed(error)

    def _make_locators(self) -> list[threading.Thread]:
        wanted: dict[tuple[str, Cluster], list[Keeper]] = {}
        for keeper in (each for keepers in self._keepers.values() for each in keepers if each.output.needs_cluster):
            wanted.setdefault((keeper.output.request.role, keeper.output.cluster), []).append(keeper)
        return [
            threading.Thread(target=self._locate, args=[role, given, keepers], name="kubevend-agent-cluster")
            for (role, given), keepers in wanted.items()
        ]

    def _locate(self, role: str, given: Cluster, keepers: list[Keeper]) -> None:
        """Find out where a cluster is, over and over until that is known."""
        pause = _SHORTEST_PAUSE_SECONDS
        while not self._closing.is_set():
            try:
                place = find(self._client, role, given)
            except KubevendError as error:
                self._post(partial(self._not_located, role, keepers, error))
            else:
                self._post(partial(_tell_place, keepers, place))
                return
            self._closing.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _not_located(self, role: str, keepers: list[Keeper], error: KubevendError) -> None:
        tell_failure(self._log, role, error)
        for keeper in keepers:
            keeper.failed(error)

    def _revoke(self) -> None:
        for lease in [lease for lease, end in self._leases.items() if end > now()]:
            revoke(self._client, lease, self._log)


def _tell_place(keepers: Iterable[Keeper], place: Place) -> None:
    for keeper in keepers:
        keeper.located(place)


def revoke(client: Client, lease: str, log: Log) -> None:
    """End a lease that nobody needs any more, if that can be done; the log says whether it was."""
    try:
        client.leases.RevokeLease(lease_service_pb2.RevokeLeaseRequest(name=lease), timeout=_REVOCATION_SECONDS)
    except KubevendError as error:
        log.warning("not_revoked", lease=lease, code=error.code, reason=error.reason, message=error.message)
    else:
        log.info("lease_ended", lease=lease)


def tell_failure(log: Log, role: str, error: KubevendError) -> None:
    """Tell of a token that could not be had."""
    log.warning(
        "no_token",
        role=role,
        code=error.code,
        reason=error.reason,
        message=error.message,
        request_id=error.request_id,
        violations=[f"{violation.field}: {violation.description}" for violation in error.violations],
    )

"""The labels of a cluster's namespaces, known from a watch instead of a call for each issuance.

See https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. A watch alone does not
show that it still is one: a connection that has died is as silent as a cluster in which nothing happens. So each is
asked to end after a while, and a bookmark comes 2 s before that (apiserver, pkg/storage/cacher/cache_watcher.go), which
says that nothing was missed up to then. One in which nothing came proves nothing, and the namespaces are listed again:
so it is where a cluster was restored from a backup, and is asked to go on from a state that it has yet to reach.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlencode

import msgspec
import structlog

from kubevend_server.cluster.answers import decode
from kubevend_server.cluster.connection import Connection, Request
from kubevend_server.cluster.failures import from_status
from kubevend_server.cluster.lists import METADATA, Metadata, Partial, list_all
from kubevend_server.configs import Config
from kubevend_server.errors import Internal, KubevendError

FRESH_SECONDS = 30.0
"""For how long what was heard counts."""

_PATH = "/api/v1/namespaces"
_GRANTED = "kubevend-watches-namespaces"
_WATCH_SECONDS = 20
# What is known is known anew by then: a cluster that goes on naming namespaces would fill our memory.
_MOST_BYTES = 64 << 20
# For what the cluster takes to begin and to end one.
_SLACK_SECONDS = 5.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0

_log = structlog.get_logger()


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Ended(msgspec.Struct):
    """The Status with which a cluster ends a watch that it cannot go on with."""

    code: int = 0


class NamespaceWatch:
    """The namespaces of one cluster."""

    def __init__(
        self,
        connection: Connection,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Take what it needs; nothing is asked before `run`.

        Args:
            connection: the cluster. One of its connections is busy while this runs.
            clock: seconds that only go forward.
            pause: wait for so many seconds.
            jitter: a number from 0 to 1, another one each time.
        """
        self._connection = connection
        self._clock = clock
        self._pause = pause
        self._jitter = jitter
        self._labels: dict[str, Mapping[str, str]] = {}
        self._version = ""
        self._heard: float | None = None
        self._times_heard = 0
        self._size = 0
        self._tried = asyncio.Event()
        self._silent = False
        self._attempt = connection.attempt(
            "its namespaces' labels",
            right="the verbs list and watch on namespaces in the whole cluster",
            grant=(
                f"kubectl create clusterrole {_GRANTED} --verb=list,watch --resource=namespaces && "
                f"kubectl create clusterrolebinding {_GRANTED} --clusterrole={_GRANTED} {{identity}}"
            ),
        )
        self.fault: KubevendError | None = None
        """Why the last try to hear of the namespaces failed; None where it did not."""

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels, as they were last heard of; None where there is no such namespace."""
        return self._labels.get(namespace)

    def fresh(self, now: float) -> bool:
        """Whether what is known was so within the last 30 s. `now` is of the same clock."""
        return self._heard is not None and now - self._heard <= FRESH_SECONDS

    async def wait_ready(self) -> None:
        """Wait until the namespaces have been read, or could not be: `fresh` tells which."""
        await self._tried.wait()

    async def run(self) -> None:
        """Keep up with the namespaces until cancelled, whatever happens."""
        failures = 0
        while True:
            before = self._times_heard
            try:
                await self._go_on()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watch
                self._fail(error)
            else:
                self.fault = None
            self._tried.set()
            self._tell()
            failures = 0 if self.fault is None and self._times_heard != before else failures + 1
            if failures:
                longest = min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE)
                await self._pause(longest * (1 + self._jitter()) / 2)

    async def _go_on(self) -> None:
        if self._version:
            await self._watch()
        else:
            await self._list()

    async def _list(self) -> None:
        found, version = await list_all(self._connection, _PATH, self._attempt, {})
        self._labels = {namespace.name: namespace.labels for namespace in found}
        self._size = 0
        self._hear(version)

    async def _watch(self) -> None:
        before = self._times_heard
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": self._version,
        }
        request = Request("GET", f"{_PATH}?{urlencode(query)}", accept=METADATA)
        try:
            async with self._connection.lines(request, self._attempt, _WATCH_SECONDS + _SLACK_SECONDS) as lines:
                async for line in lines:
                    self._apply(line)
                    self._size += len(line)
                    if self._size > _MOST_BYTES:
                        self._version = ""
                        return
        finally:
            if self._times_heard == before:
                self._version = ""

    def _apply(self, line: bytes) -> None:
        event = decode(line, _Event, self._attempt)
        if event.type == "ERROR":
            self._version = ""
            code = decode(event.object, _Ended, self._attempt).code or HTTPStatus.INTERNAL_SERVER_ERROR
            raise from_status(code, {}, bytes(event.object), self._attempt)
        namespace = decode(event.object, Partial, self._attempt).metadata
        self._change(event.type, namespace)
        self._hear(namespace.resourceVersion)

    def _change(self, what: str, namespace: Metadata) -> None:
        if what in {"ADDED", "MODIFIED"}:
            self._labels[namespace.name] = namespace.labels
        elif what == "DELETED":
            self._labels.pop(namespace.name, None)

    def _hear(self, version: str) -> None:
        self._version = version
        self._heard = self._clock()
        self._times_heard += 1

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, KubevendError):
            _log.error("namespaces_watch_defect", config=self._connection.endpoint.label, exc_info=error)
            error = Internal("DEFECT", "A defect of kubevend's own; the process log has the cause.")
        # The state from which it would go on is forgotten: all are to be listed again.
        if error.metadata.get("http_status") == str(HTTPStatus.GONE.value):
            self._version = ""
        self.fault = error

    def _tell(self) -> None:
        """Say once that what is known has become too old, and once that it no longer is."""
        silent = not self.fresh(self._clock())
        if silent != self._silent:
            self._silent = silent
            fault = self.fault
            if silent:
                _log.warning(
                    "namespaces_unknown",
                    config=self._connection.endpoint.label,
                    reason=fault.reason if fault else "",
                    error=fault.message if fault else "nothing came in time",
                )
            else:
                _log.info("namespaces_known_again", config=self._connection.endpoint.label)


class NamespaceWatches:
    """A watch for each config that some role with a selector uses, begun when it is first asked for."""

    def __init__(self, connect: Callable[[Config], Connection], clock: Callable[[], float]) -> None:
        """Take what it needs.

        Args:
            connect: makes a connection of its own to a config's cluster, which is retired with the watch.
            clock: seconds that only go forward.
        """
        self._connect = connect
        self._clock = clock
        self._watches: dict[str, tuple[str, NamespaceWatch, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, config: Config) -> NamespaceWatch:
        """The watch of a config's cluster; another one once the config has changed.

        Raises:
            FailedPrecondition: the config cannot be used as it is.
        """
        known = self._watches.get(config.name)
        if known is not None and known[0] == config.etag:
            return known[1]
        connection = self._connect(config)
        self.forget(config.name)
        watch = NamespaceWatch(connection, self._clock)
        task = asyncio.get_running_loop().create_task(_run(watch, connection))
        self._watches[config.name] = (config.etag, watch, task)
        return watch

    def forget(self, name: str) -> None:
        """End a config's watch."""
        known = self._watches.pop(name, None)
        if known is not None:
            task = known[2]
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def keep(self, configs: Iterable[Config]) -> None:
        """End all watches but those of these configs as they are now."""
        kept = {config.name: config.etag for config in configs}
        for name, (etag, _, _) in list(self._watches.items()):
            if kept.get(name) != etag:
                self.forget(name)

    async def close(self) -> None:
        """End every watch."""
        for name in list(self._watches):
            self.forget(name)
        await asyncio.gather(*self._ending, return_exceptions=True)


async def _run(watch: NamespaceWatch, connection: Connection) -> None:
    with suppress(asyncio.CancelledError):
        try:
            await watch.run()
        finally:
            await connection.retire()

"""Calls that are refused since there were too many of them, summed up: a flood costs neither disk nor log.

One audit event tells of all calls that were refused for one reason to one source, or to one caller, in
`_PERIOD_SECONDS`. What was not written yet is lost with a process that is killed; a stop writes it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from google.protobuf.message import Message

from kubevend_server.audit import event
from kubevend_server.calls import Call, Handler
from kubevend_server.errors import KubevendError, OverLimit
from kubevend_server.journal import Entry, Journal
from kubevend_server.metrics import Metrics

_PERIOD_SECONDS = 10.0
_MOST_SUMS = 1000
"""Lines in a period; beyond them all share one."""

_Key = tuple[str, str]
_OTHERS: _Key = ("", "")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Sum:
    """So many calls, and the event of the first of them: the call itself is not kept, since it holds a credential."""

    first: dict[str, Any]
    count: int


class Refusals:
    """Counts what is refused with an `OverLimit`, and writes down the sums."""

    def __init__(
        self, journal: Journal, metrics: Metrics, period: float = _PERIOD_SECONDS, most_sums: int = _MOST_SUMS
    ) -> None:
        """Take what it writes to.

        Args:
            journal: where the sums go.
            metrics: counts as well.
            period: seconds between two writings.
            most_sums: how many sources and callers have events of their own in a period.
        """
        self._journal = journal
        self._metrics = metrics
        self._period = period
        self._most_sums = most_sums
        self._sums: dict[_Key, _Sum] = {}

    async def sum_up(self, call: Call, proceed: Handler) -> Message:
        """Let the call proceed, and count it where it goes beyond a limit."""
        try:
            return await proceed(call)
        except OverLimit as refusal:
            self._metrics.refused(refusal.reason)
            self._count(call, refusal)
            raise

    def _count(self, call: Call, refusal: OverLimit) -> None:
        key = (refusal.reason, refusal.subject)
        if key not in self._sums and len(self._sums) >= self._most_sums:
            self._add(_OTHERS, _Sum(event.refused_elsewhere(), 1))
        elif key not in self._sums:
            self._sums[key] = _Sum(event.refused(call, refusal), 1)
        else:
            self._sums[key].count += 1

    def _add(self, key: _Key, more: _Sum) -> None:
        self._sums.setdefault(key, _Sum(more.first, 0)).count += more.count

    async def run(self) -> None:
        """Write down what was summed up, period after period."""
        while True:
            await asyncio.sleep(self._period)
            await self.flush()

    async def flush(self) -> None:
        """Write down what was summed up. What cannot be written now is tried again with the next."""
        sums, self._sums = self._sums, {}
        problems = await asyncio.gather(*map(self._write, sums.values()))
        lost = {key: each for (key, each), problem in zip(sums.items(), problems, strict=True) if problem is not None}
        for key, each in lost.items():
            self._add(key, each)
        if lost:
            _log.error("refusals_not_recorded", calls=sum(each.count for each in lost.values()))

    async def _write(self, each: _Sum) -> KubevendError | None:
        summed = {**each.first, "refusedCalls": str(each.count)}
        try:
            await self._journal.commit(Entry(lambda refusal: summed if refusal is None else None))
        except KubevendError as problem:
            return problem
        return None

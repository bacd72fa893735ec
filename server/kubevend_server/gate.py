"""What lets calls in, and keeps out those that are too many: by where they come from, by who makes them, by role.

Each refusal names the setting that it is for, and says when to try again.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from google.protobuf.message import Message

from kubevend_server.calls import Call, Handler
from kubevend_server.errors import OverLimit, Unauthenticated
from kubevend_server.listeners import Shown
from kubevend_server.metrics import Metrics
from kubevend_server.settings.sections import LimitSettings
from kubevend_server.throttle import Rate, Throttle

_SOON = timedelta(seconds=1)
"""When to try again where that depends on when other calls are done."""
_MOST_ACCEPTED = 10_000
"""Credentials, of which digests are remembered, with the one that was accepted longest ago forgotten first."""


class Gate:
    """Counts calls under way, and how often whose calls come. To be used on the event loop's thread only."""

    def __init__(
        self,
        limits: LimitSettings,
        metrics: Metrics,
        monotonic: Callable[[], float],
        carries_others: Callable[[Shown], bool],
    ) -> None:
        """Take what is let in.

        Args:
            limits: how much.
            metrics: is told how much is under way.
            monotonic: seconds that never go back.
            carries_others: whether a proxy makes a call for others, so that its address says nothing of who they are.
        """
        self._limits = limits
        self._carries_others = carries_others
        self._metrics = metrics
        self._sources = Throttle(Rate(limits.source_per_second, limits.source_burst), monotonic)
        self._failures = Throttle(Rate(limits.source_failures_per_second, limits.source_failures_burst), monotonic)
        self._callers = Throttle(Rate(limits.caller_per_second, limits.caller_burst), monotonic)
        self._roles = Throttle(Rate(limits.role_per_second, limits.role_burst), monotonic)
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._from: Counter[str] = Counter()
        self._of: Counter[str] = Counter()
        self._in_flight = 0

    async def admit_source(self, call: Call, proceed: Handler) -> Message:
        """Let calls in so often from each source, and so many at once, before anything is done for them."""
        if self._carries_others(call.shown):
            return await proceed(call)
        source, most = call.source, self._limits.in_flight_per_source
        if self._from[source] >= most:
            raise _too_many("in_flight_per_source", most, f"{source} has", source)
        wait = self._failures.wait(source)
        if wait and _credential(call) not in self._accepted:
            words = f"Too many calls from {source} have shown no credential that is accepted"
            raise _too_often("SOURCE_FAILURES_LIMIT", "source_failures", self._failures.rate, wait, words, source)
        wait = self._sources.admit(source)
        if wait:
            raise _too_often(
                "SOURCE_LIMIT", "source", self._sources.rate, wait, f"Too many calls come from {source}", source
            )
        with _counted(self._from, source):
            try:
                return await proceed(call)
            except (Unauthenticated, asyncio.CancelledError):
                # Who gives up before it is known who they are has cost as much as who is not known.
                if call.caller is None:
                    self._failures.take(source)
                    self._accepted.pop(_credential(call), None)
                raise

    async def admit_caller(self, call: Call, proceed: Handler) -> Message:
        """Let a caller's calls in so often, and so many at once, before what they say is looked at.

        Where all callers together have too many, those who have none get one in all the same, up to twice as many: it
        is not they who ask for too much.
        """
        name, limits = call.who.name, self._limits
        self._accept(call)
        own = self._of[name]
        if own >= limits.in_flight_per_caller:
            raise _too_many("in_flight_per_caller", limits.in_flight_per_caller, f"{name} has", name)
        if self._in_flight >= limits.in_flight * (1 if own else 2):
            raise _too_many("in_flight", limits.in_flight, "All callers together have", name)
        wait = self._callers.admit(name)
        if wait:
            raise _too_often("CALLER_LIMIT", "caller", self._callers.rate, wait, f"{name} makes too many calls", name)
        with _counted(self._of, name), self._under_way():
            return await proceed(call)

    def admit_role(self, call: Call, role: str) -> None:
        """Let tokens be issued so often through a role, whoever asks.

        For callers whom policy lets issue through it alone: others are not to learn that it exists.

        Raises:
            OverLimit: it was too often.
        """
        wait = self._roles.admit(role)
        if wait:
            words = f"Too many tokens are asked for through {role}"
            raise _too_often("ROLE_LIMIT", "role", self._roles.rate, wait, words, f"{call.who.name} {role}")

    def _accept(self, call: Call) -> None:
        """Remember a credential that was accepted: others' failures from the same address are not to stop it."""
        if self._carries_others(call.shown):
            # It is held to no failures, and may show no credential of its own: none at all would then be accepted.
            return
        credential = _credential(call)
        self._accepted[credential] = None
        self._accepted.move_to_end(credential)
        if len(self._accepted) > _MOST_ACCEPTED:
            self._accepted.popitem(last=False)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)


def _too_often(reason: str, whose: str, rate: Rate, wait: float, words: str, subject: str) -> OverLimit:
    retry_after = timedelta(milliseconds=math.ceil(wait * 1000))
    setting = f"limits.{whose}_per_second"
    return OverLimit(
        reason,
        f"{words}: {rate.per_second:g} a second are let in, {rate.burst} at once ({setting}, limits.{whose}_burst). "
        f"Try again in {retry_after.total_seconds():g} s.",
        subject=subject,
        metadata={"setting": setting, "per_second": f"{rate.per_second:g}", "burst": str(rate.burst)},
        retry_after=retry_after,
    )


def _too_many(name: str, most: int, words: str, subject: str) -> OverLimit:
    return OverLimit(
        "TOO_MANY_IN_FLIGHT",
        f"{words} {most} calls under way, which is as many as may be at once (limits.{name}). Wait until some are "
        "done, and try again.",
        subject=subject,
        metadata={"setting": f"limits.{name}", "most": str(most)},
        retry_after=_SOON,
    )


def _credential(call: Call) -> bytes:
    """What tells a credential from others, and nothing else: the digest of a token or of a certificate."""
    certificate = call.shown.certificate
    if certificate is not None:
        return certificate.fingerprint.encode()
    return hashlib.sha256(call.shown.first("authorization").encode("utf-8", "replace")).digest()


@contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]

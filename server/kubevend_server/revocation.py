"""Ending leases before their time, because somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa

from kubevend_server import ending
from kubevend_server.anchors import SharedAnchors
from kubevend_server.audit import event
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.clock import Clock
from kubevend_server.errors import FailedPrecondition, PermissionDenied
from kubevend_server.journal import Entry, Journal
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.leases import NOT_ENDED, Lease, LeaseFilter, State
from kubevend_server.removal import Remover
from kubevend_server.store import leases as lease_store
from kubevend_server.store.database import Database

CACHE = timedelta(seconds=12)
"""For how long an API server may go on accepting a token that has lost its anchor: it remembers tokens for 10 s."""

MOST_AT_ONCE = 5000
_MOST_OTHERS = 1000
_BATCH = 500
_MOST_PASSED_OVER = 100_000
"""How many leases that a caller may not know of one call looks through."""
_MOST_SHARING = 20 * MOST_AT_ONCE
_SETTLE_SECONDS = 10.0

_Judge = Callable[[sa.Connection, Sequence[Lease]], dict[str, str]]
"""Says of which anchors the leases are not to end after all, and why, or refuses the whole call."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a lease that was to be ended. The fields are those of `LeaseRevocation` in the protos."""

    lease: str
    state: State
    works_until: datetime | None
    message: str


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which leases of those that were found are ended, and of each other why not."""

    ending: list[Lease]
    left: list[Revoked]


class Revocation:
    """Ends leases on request."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        authorizer: Authorizer,
        anchors: SharedAnchors,
        remover: Remover,
        feed: LeaseFeed,
        clock: Clock,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        self._database = database
        self._feed = feed
        self._journal = journal
        self._authorizer = authorizer
        self._anchors = anchors
        self._remover = remover
        self._clock = clock
        self._checkpoint = checkpoint

    async def revoke(
        self, call: Call, lease: Lease, *, end_shared: bool, validate_only: bool
    ) -> tuple[Revoked, list[Revoked]]:
        """End one lease, on which the call is allowed.

        Returns:
            What became of it, and of the others that share its anchor.

        Raises:
            FailedPrecondition: it is being issued just now, or others would end with it and `end_shared` is not set.
            PermissionDenied: the caller may not end one of these others.
        """
        now = self._clock()
        state = lease.state(now)
        if state == "PENDING":
            raise FailedPrecondition(
                "LEASE_PENDING",
                f"{lease.name} is being issued just now: nobody has its token yet. Try again in a moment.",
                metadata={"lease": lease.name, "subject": lease.name},
                retry_after=timedelta(seconds=2),
            )
        if state != "ACTIVE":
            return _ended_already(lease, state, now), []
        others = await self._others(lease)
        self._check_others(call, lease, others, end_shared=end_shared)
        ended = [lease, *others]
        if validate_only:
            foreseen = [_foreseen(each, now) for each in ended]
            return foreseen[0], foreseen[1:_MOST_OTHERS]

        def judge(_: sa.Connection, joined: Sequence[Lease]) -> dict[str, str]:
            if joined:
                self._check_others(call, lease, [*others, *joined], end_shared=end_shared)
            return {}

        found = {each.lease: each for each in await self._end(call, ended, judge)}
        revoked = found.pop(lease.name)
        return revoked, list(found.values())[:_MOST_OTHERS]

    async def revoke_all(
        self, call: Call, narrowed: LeaseFilter, *, end_shared: bool, validate_only: bool
    ) -> tuple[list[Revoked], bool]:
        """End every live lease of a filter that the caller may end.

        Returns:
            What became of each that the caller may get, the newest first, and whether there are more.
        """
        found, more = await self._find(call, narrowed)
        chosen = await self._choose(call, found, end_shared=end_shared)
        now = self._clock()

        def judge(connection: sa.Connection, joined: Sequence[Lease]) -> dict[str, str]:
            fit = lease_store.fitting(connection, narrowed, [lease.name for lease in joined])
            permitted = {
                lease.name: lease
                for lease in joined
                if lease.name in fit and self._authorizer.may(call, "RevokeLease", lease)
            }
            on_anchor: dict[str, list[Lease]] = {}
            for lease in joined:
                on_anchor.setdefault(lease.anchor, []).append(lease)
            return self._refused(call, on_anchor, permitted, end_shared=end_shared)

        if validate_only:
            ended = [_foreseen(lease, now) for lease in chosen.ending]
        else:
            ended = await self._end(call, chosen.ending, judge) if chosen.ending else []
        # One that was being issued when it was found ends with its anchor all the same.
        names = {each.lease for each in ended}
        left = [each for each in chosen.left if each.lease not in names]
        return sorted([*ended, *left], key=lambda each: each.lease, reverse=True), more

    async def _find(self, call: Call, narrowed: LeaseFilter) -> tuple[list[Lease], bool]:
        """Find leases to end or to tell of, and whether there are more.

        Those that neither can be ended nor may be told of do not count; nor do those that are ending already, which
        could otherwise hide the others for as long as their cluster is away.
        """
        found: list[Lease] = []
        states: tuple[State, ...] = (narrowed.state,) if narrowed.state else ("ACTIVE", "PENDING", "REVOKING")
        for state in states:
            after, passed_over = "", 0
            while passed_over <= _MOST_PASSED_OVER:
                query = partial(
                    lease_store.find_live, narrowed=replace(narrowed, state=state), limit=_BATCH, after=after
                )
                batch = await self._database.read(query)
                for lease in batch:
                    after = lease.name
                    if not any(self._authorizer.may(call, action, lease) for action in ("RevokeLease", "GetLease")):
                        passed_over += 1
                    elif len(found) == MOST_AT_ONCE:
                        return found, state != "REVOKING"
                    else:
                        found.append(lease)
                if len(batch) < _BATCH:
                    break
            else:
                return found, True
        return found, False

    async def _choose(self, call: Call, found: Sequence[Lease], *, end_shared: bool) -> _Chosen:
        now = self._clock()
        chosen = _Chosen([], [])
        permitted: dict[str, Lease] = {}
        for lease in found:
            if self._authorizer.may(call, "RevokeLease", lease):
                permitted[lease.name] = lease
            else:
                chosen.left.append(_left(lease, now, "You may not end it."))
        anchors = {lease.anchor for lease in permitted.values() if lease.shares_anchor}
        on_anchor: dict[str, list[Lease]] = {anchor: [] for anchor in anchors}
        if anchors:
            # Those that a filter leaves out, too: they would end with the others.
            for lease in await self._sharing(anchors):
                on_anchor[lease.anchor].append(lease)
        refused = self._refused(call, on_anchor, permitted, end_shared=end_shared)
        for lease in permitted.values():
            state = lease.state(now)
            if state == "PENDING":
                chosen.left.append(_left(lease, now, "It is being issued just now; try again in a moment."))
            elif state != "ACTIVE":
                chosen.left.append(_ended_already(lease, state, now))
            elif lease.anchor in refused:
                chosen.left.append(_left(lease, now, refused[lease.anchor]))
            else:
                chosen.ending.append(lease)
        with_others = {lease.anchor for lease in chosen.ending if lease.shares_anchor}
        chosen.ending.extend(
            lease
            for anchor in sorted(with_others)
            for lease in on_anchor[anchor]
            if lease.name not in permitted and lease.state(now) == "ACTIVE"
        )
        return chosen

    def _refused(
        self, call: Call, on_anchor: Mapping[str, Sequence[Lease]], permitted: dict[str, Lease], *, end_shared: bool
    ) -> dict[str, str]:
        """The anchors whose leases are left as they are, each with the reason."""
        return {
            anchor: why
            for anchor, all_on_it in on_anchor.items()
            if (why := self._why_not(call, all_on_it, permitted, end_shared))
        }

    def _why_not(self, call: Call, all_on_it: Iterable[Lease], permitted: dict[str, Lease], end_shared: bool) -> str:
        """Why the leases on an anchor are left as they are; empty where they are not."""
        others = [lease for lease in all_on_it if lease.name not in permitted]
        if not others:
            return ""
        if not end_shared:
            return (
                f"It shares its anchor with {_counted(others)} that the filter does not find: set end_shared to "
                "end them too."
            )
        if not all(self._authorizer.may(call, "RevokeLease", lease) for lease in others):
            return "It shares its anchor with leases that you may not end."
        return ""

    async def _others(self, lease: Lease) -> list[Lease]:
        if not lease.shares_anchor:
            return []
        found = await self._sharing({lease.anchor})
        now = self._clock()
        return [other for other in found if other.name != lease.name and other.state(now) in NOT_ENDED]

    async def _sharing(self, anchors: Collection[str]) -> list[Lease]:
        return await self._database.read(lambda connection: lease_store.sharing(connection, anchors, _MOST_SHARING))

    def _check_others(self, call: Call, lease: Lease, others: Sequence[Lease], *, end_shared: bool) -> None:
        """Refuse to end a lease with which others would end that are not to, or not by this caller."""
        if others and not end_shared:
            raise FailedPrecondition(
                "LEASE_SHARES_ANCHOR",
                f"{lease.name} shares its anchor with {_counted(others)} (leases of {lease.role} are revoked "
                f"{lease.revocation}), which would end with it. Set end_shared to end them all, or wait until "
                f"{lease.expire_time.isoformat(timespec='seconds')}, when it ends by itself.",
                metadata={"lease": lease.name, "others": str(len(others)), "subject": lease.name},
            )
        if not all(self._authorizer.may(call, "RevokeLease", other) for other in others):
            call.record.denied = True
            raise PermissionDenied(
                "ACCESS_DENIED",
                f"{call.who.name} may not end all of the {len(others)} leases that share the anchor of {lease.name}. "
                "Have somebody end it who may.",
                metadata={"caller": call.who.name, "action": "RevokeLease", "resource": lease.name},
            )

    async def _end(self, call: Call, chosen: Sequence[Lease], judge: _Judge) -> list[Revoked]:
        """Write down that leases end, and wait a while for what stands for them to go.

        Args:
            call: the call.
            chosen: they.
            judge: asked, in the transaction, of leases that have come onto their anchors since they were chosen, and
                would end with them.
        """
        known = {lease.name for lease in chosen}
        anchors = {lease.anchor for lease in chosen if lease.shares_anchor}
        ended: list[Lease] = []
        refused: dict[str, str] = {}
        call.irrevocable = True
        cause = f"revoked by {call.who.name}"

        def change(connection: sa.Connection) -> None:
            joined = lease_store.joined(connection, anchors, known)
            refused.clear()
            refused.update(judge(connection, joined))
            ended[:] = [lease for lease in (*chosen, *joined) if lease.anchor not in refused]
            call.record.leases = tuple(lease.name for lease in ended[:MOST_AT_ONCE])
            ending.revoke(connection, ended, cause, self._clock())

        await self._checkpoint("revoke.intended")
        await self._journal.commit(
            Entry(lambda refusal: None if refusal else event.revocation_intent(call), change=change)
        )
        self._anchors.forget({lease.anchor for lease in ended if lease.anchor})
        self._remover.poke()
        self._feed.poke()
        await self._checkpoint("revoke.marked")
        names = [lease.name for lease in ended]
        await self._wait(names)
        # What stood for them has gone meanwhile, most often: then it is known until when their tokens work.
        self._feed.poke()
        now = self._clock()
        after = await self._database.read(lambda connection: lease_store.get_all(connection, names))
        left = [_left(lease, now, refused[lease.anchor]) for lease in chosen if lease.anchor in refused]
        return [*(_revoked(lease, now) for lease in after), *left]

    async def _wait(self, names: Sequence[str]) -> None:
        standing = await self._database.read(lambda connection: lease_store.standing_ids(connection, names))
        if standing:
            await self._remover.settle(standing, _SETTLE_SECONDS)


def _counted(leases: Sequence[Lease]) -> str:
    return f"{len(leases)} other lease" + ("s" if len(leases) > 1 else "")


def _token_end(lease: Lease) -> datetime:
    return max((token.expire_time for token in lease.tokens), default=lease.expire_time)


def _left(lease: Lease, now: datetime, why: str) -> Revoked:
    return Revoked(lease.name, lease.state(now), None, why)


def _foreseen(lease: Lease, now: datetime) -> Revoked:
    if lease.revocation == "NONE":
        return Revoked(lease.name, "ACTIVE", _token_end(lease), _NOT_BOUND)
    return Revoked(lease.name, "ACTIVE", now + CACHE, "It would be ended, and its token stop working within 12 s.")


def _ended_already(lease: Lease, state: State, now: datetime) -> Revoked:
    if state == "REVOKING":
        return _revoked(lease, now)
    return Revoked(lease.name, state, _worked_until(lease), "It had ended already.")


def _worked_until(lease: Lease) -> datetime | None:
    if lease.revocation == "NONE" or lease.end_time is None:
        return _token_end(lease)
    return min(lease.end_time + CACHE, max(_token_end(lease), lease.end_time))


def _revoked(lease: Lease, now: datetime) -> Revoked:
    state = lease.state(now)
    if state == "REVOKING":
        problem = lease.ending.message if lease.ending and lease.ending.message else "the cluster has not answered yet"
        return Revoked(
            lease.name, state, None, f"Its token may still work until kubevend has deleted what it stands on: {problem}"
        )
    if lease.revocation == "NONE":
        return Revoked(lease.name, state, _token_end(lease), _NOT_BOUND)
    return Revoked(lease.name, state, _worked_until(lease), _STOPS)


_NOT_BOUND = (
    "Its token works until it expires: the role's revocation is NONE, so nothing in the cluster ties the token "
    "to the lease."
)
_STOPS = (
    "The API server refuses new requests with its token within 12 s. Watches and sessions that are open go on, and "
    "whoever checks only the signature does not notice."
)

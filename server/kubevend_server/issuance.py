"""The way of an issuance, from a request through a role to a token: `docs/architecture.md` tells it in steps."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from kubevend_server import ending, names
from kubevend_server.anchors import Scope, SharedAnchors, scope_of
from kubevend_server.audit import event
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.catalog import Catalog
from kubevend_server.checkpoints import Checkpoint, pass_by
from kubevend_server.clock import Clock
from kubevend_server.cluster.clusters import Clusters
from kubevend_server.cluster.connection import Connection
from kubevend_server.cluster.failures import AnchorGone
from kubevend_server.cluster.tokens import IssuedToken, request_token
from kubevend_server.configs import Config
from kubevend_server.errors import KubevendError
from kubevend_server.gate import Gate
from kubevend_server.in_flight import InFlight
from kubevend_server.journal import Journal
from kubevend_server.leases import ClusterObject, Lease, LeaseToken
from kubevend_server.making import AnchorTaken, Maker, plan
from kubevend_server.minted import by_cluster, check_bound, check_minted, lease_end
from kubevend_server.namespaces import Namespaces
from kubevend_server.policy.grant import Grant, grant
from kubevend_server.policy.lifetimes import check_min_ttl
from kubevend_server.policy.limits import MINIMUM_TTL, Limits
from kubevend_server.policy.terms import Asked, Naming, terms
from kubevend_server.removal import Remover
from kubevend_server.replaying import life, within
from kubevend_server.request_ids import NOTHING, Once, RequestIds, lease_over
from kubevend_server.roles import Role
from kubevend_server.store import leases as lease_store
from kubevend_server.store import requests as request_store
from kubevend_server.store.changes import Change, Fence
from kubevend_server.store.configs import config_missing
from kubevend_server.store.requests import Claim
from kubevend_server.store.roles import role_not_found
from kubevend_server.turns import Turns
from kubevend_server.warning import Warning

_MOST_ANCHORS = 5
"""How many shared anchors an issuance tries that somebody takes away before its token is bound."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What an issuance came to. `token` and `lease` are empty where it was only validated."""

    grant: Grant
    audiences: tuple[str, ...]
    expiration: datetime
    token_expiration: datetime
    granted_ttl: timedelta
    warnings: tuple[Warning, ...]
    token: IssuedToken | None = None
    lease: str = ""
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Issuing:
    """One issuance on its way.

    Attributes:
        call: the call.
        grant: what was granted.
        lease: the lease's name.
        create_time: when it was granted. The name tells it too, and lists rely on that.
        config: the role's config.
        connection: the way to its cluster.
        audit_id: under which Kubernetes' audit log shall have the TokenRequest.
        claim: the lease's hold on the call's request id; None where it has none.
    """

    call: Call
    grant: Grant
    lease: str
    create_time: datetime
    config: Config
    connection: Connection
    audit_id: str
    claim: Claim | None = None


class Issuance:
    """Issues tokens."""

    def __init__(
        self,
        catalog: Catalog,
        authorizer: Authorizer,
        clusters: Clusters,
        namespaces: Namespaces,
        journal: Journal,
        anchors: SharedAnchors,
        maker: Maker,
        remover: Remover,
        in_flight: InFlight,
        request_ids: RequestIds,
        gate: Gate,
        turns: Turns,
        limits: Limits,
        clock: Clock,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        self._catalog = catalog
        self._authorizer = authorizer
        self._clusters = clusters
        self._namespaces = namespaces
        self._journal = journal
        self._anchors = anchors
        self._maker = maker
        self._remover = remover
        self._in_flight = in_flight
        self._request_ids = request_ids
        self._gate = gate
        self._turns = turns
        self._limits = limits
        self._clock = clock
        self._checkpoint = checkpoint

    async def issue(
        self, call: Call, role_name: str, asked: Asked, once: Once | None = None, *, validate_only: bool
    ) -> Issued:
        """Decide on a request, and have the cluster mint the token.

        The lease goes into the call's record: the journal writes it together with the audit event, before the token
        leaves.

        Args:
            call: the call.
            role_name: `roles/{role}`.
            asked: what is asked of it.
            once: by what a call that is made again is known; None where each is one of its own.
            validate_only: whether only to say what would come of it.

        Raises:
            KubevendError: see the comment of IssueService.IssueToken.
        """
        found = NOTHING if once is None or validate_only else await self._request_ids.look(call, once)
        now = self._clock()
        lease = found.replay.name if found.replay else names.new_lease_name(now)
        granted = await self._decide(call, role_name, asked, lease, found.replay)
        self._gate.admit_role(call, role_name)
        if found.refusal is not None:
            raise found.refusal
        if found.would_differ(granted.terms):
            found, lease = found.anew(), names.new_lease_name(now)
            granted = await self._decide(call, role_name, asked, lease)
        config = self._catalog.config(granted.terms.config)
        if config is None:
            raise config_missing(granted.terms.config)
        if validate_only:
            return _foreseen(granted, now)
        claim = found.claim(call.who.name, granted.terms, lease, now)
        issuing = _Issuing(call, granted, lease, now, config, self._clusters.of(config), str(uuid.uuid4()), claim)
        if found.replay is not None:
            return await self._replay(issuing, found.replay)
        return await self._issue(issuing)

    async def _issue(self, issuing: _Issuing) -> Issued:
        granted = issuing.grant
        if granted.terms.revocation == "NONE":
            async with self._turn(issuing):
                return await self._issue_on(issuing, None)
        if granted.terms.revocation == "PER_LEASE":
            async with self._turn(issuing):
                planned = plan(granted, issuing.lease, issuing.create_time)
                return await self._issue_made(issuing, await self._make(issuing, planned))
        return await self._issue_shared(issuing, scope_of(granted, issuing.call.who.name))

    async def decide(self, call: Call, role_name: str, asked: Asked) -> Grant:
        """Decide what would be granted now, and do nothing.

        Raises:
            KubevendError: nothing would be, or it cannot be told.
        """
        return await self._decide(call, role_name, asked, names.new_lease_name(self._clock()))

    def _turn(self, issuing: _Issuing) -> AbstractAsyncContextManager[None]:
        """The caller's turn at the cluster. Nobody waits for anything else meanwhile, lest all turns wait for it."""
        call = issuing.call
        return self._turns.take(issuing.config.name, call.who.name, call.record.settled.append)

    async def _decide(self, call: Call, role_name: str, asked: Asked, lease: str, replay: Lease | None = None) -> Grant:
        """Decide on a request: for a new lease of this name, or for another token of one that is there."""
        call.record.resource = role_name
        # A role that is not there takes the way of one that allows nothing, and of one that the caller may not see.
        found = self._catalog.role(role_name)
        role = found or Role(role_name)
        try:
            namespaces = await self._namespaces.of(role) if role.allowed_namespace_selector else None
            offered = terms(role, asked, self._limits, Naming(lease, call.who.name), namespaces)
        except KubevendError as refusal:
            # The refusal tells what the role allows, which is for those who may see the role.
            self._require_sight(call, role)
            raise refusal if found else role_not_found(role_name) from None
        if replay is not None:
            offered = within(offered, replay, self._clock())
        call.record.rules, call.record.warnings = offered.rules, offered.warnings
        decision = self._authorizer.require(
            call, role, action="IssueToken", hidden=role_not_found(role.name), terms=offered
        )
        call.record.grant = grant(offered, decision)
        return call.record.grant

    def _require_sight(self, call: Call, role: Role) -> None:
        if not self._authorizer.may(call, "GetRole", role):
            call.record.denied = True
            raise role_not_found(role.name)

    # A token that stands on nothing, or on what is there.

    async def _issue_on(self, issuing: _Issuing, anchor: ClusterObject | None) -> Issued:
        """Have a token minted, bound to an anchor that is there where one is given."""
        call = issuing.call
        await self._announce(issuing, anchor)
        token = await self._mint(issuing, anchor, issuing.grant.token_ttl)
        lease = self._lease(issuing, token, () if anchor is None else (anchor,))
        call.record.rows = (*lease_store.rows(replace(lease, objects=())), *request_store.rows(issuing.claim))
        if anchor or issuing.claim:
            call.record.fence = Fence(lease.name, anchor.id if anchor else "", claim=issuing.claim)
        return self._issued(issuing, token, lease, issuing.grant.ttl)

    async def _announce(self, issuing: _Issuing, anchor: ClusterObject | None) -> None:
        """Write down what is about to be asked of the cluster."""
        call = issuing.call
        call.record.anchor = anchor.name if anchor else ""
        intent = event.intent(call, issuing.grant, issuing.lease, issuing.audit_id)
        await self._journal.intend(intent, announced=call.record.announced)
        call.record.kubernetes_audit_id, call.record.announced = issuing.audit_id, True
        # From here on a token may exist, so the work is carried to its end, whether or not the caller waits for it.
        call.irrevocable = True
        await self._checkpoint("issue.intended")

    async def _issue_shared(self, issuing: _Issuing, scope: Scope) -> Issued:
        """Have a token minted on the anchor that its scope shares; make that where there is none."""
        for _ in range(_MOST_ANCHORS):
            anchor = await self._anchors.find(scope)
            if anchor is None:
                made = await self._make_shared(issuing, scope)
                if made is not None:
                    async with self._turn(issuing):
                        return await self._issue_made(issuing, made)
                continue
            if not anchor.uid:
                await self._anchors.wait_for(scope)
                continue
            self._anchors.hold(issuing.call, anchor)
            try:
                async with self._turn(issuing):
                    return await self._issue_on(issuing, anchor)
            except AnchorGone:
                await self._anchors.lose(anchor, "its anchor was deleted in the cluster by somebody else")
        raise AnchorGone(
            "ANCHOR_GONE",
            f"The Secret that tokens of {issuing.grant.terms.role} are bound to was deleted in the cluster "
            f"{_MOST_ANCHORS} times while this one was being issued. Find out who deletes kubevend's Secrets, and try "
            "again.",
            metadata={"role": issuing.grant.terms.role},
        )

    async def _make_shared(self, issuing: _Issuing, scope: Scope) -> Lease | None:
        """Make the anchor of a scope, with the first lease on it. None where somebody else was faster."""
        async with self._anchors.turn(scope):
            if await self._anchors.find(scope) is not None:
                return None
            planned = plan(issuing.grant, issuing.lease, issuing.create_time, scope.text)
            self._anchors.hold(issuing.call, planned[0])
            try:
                async with self._turn(issuing):
                    made = await self._make(issuing, planned)
            except AnchorTaken:
                return None
            await self._maker.confirm(made)
            self._anchors.remember(scope, made.objects[0])
            return made

    # A token that stands on what is made for it.

    async def _make(self, issuing: _Issuing, planned: Sequence[ClusterObject]) -> Lease:
        """Write down the lease as pending, with what it is to stand on, and make that.

        Returns:
            The lease, with what was made.

        Raises:
            AnchorTaken: the shared anchor that was planned is there already; nothing was written.
            KubevendError: it was refused, or failed. What was made is deleted once the call's failure is recorded.
        """
        call = issuing.call
        pending = self._pending(issuing, planned)
        call.record.anchor = planned[0].name if pending.anchor else ""
        intent = event.intent(call, issuing.grant, issuing.lease, issuing.audit_id)
        call.record.kubernetes_audit_id = issuing.audit_id
        call.irrevocable = True
        self._in_flight.begin(pending.name)
        call.record.settled.append(lambda _: self._in_flight.end(pending.name))
        await self._maker.begin(pending, issuing.config, intent, issuing.claim)
        touched: list[ClusterObject] = []
        call.record.undo = self._undo(pending, touched)
        call.record.settled.append(lambda error: self._clean_up(error, pending, touched))
        await self._checkpoint("issue.pending")
        return await self._maker.make(issuing.connection, pending, issuing.grant, touched)

    def _pending(self, issuing: _Issuing, planned: Sequence[ClusterObject]) -> Lease:
        offered = issuing.grant.terms
        return Lease(
            name=issuing.lease,
            role=offered.role,
            config=offered.config,
            caller=issuing.call.who.name,
            namespace=offered.namespace,
            service_account=offered.service_account,
            audiences=offered.audiences,
            create_time=issuing.create_time,
            expire_time=issuing.create_time + offered.ttl,
            stored_state="PENDING",
            revocation=offered.revocation,
            anchor=next((made.id for made in planned if made.kind == "Secret"), ""),
            cluster_wide=offered.account is not None and offered.account.cluster_wide,
            owner=self._maker.process,
            objects=tuple(planned),
        )

    def _undo(self, pending: Lease, touched: list[ClusterObject]) -> Change:
        def change(connection: sa.Connection) -> None:
            cause = "its issuance failed"
            gone = ending.fail(connection, pending, touched, cause, self._clock(), self._in_flight.anchors)
            self._anchors.forget(gone)

        return change

    def _clean_up(self, error: KubevendError | None, pending: Lease, touched: list[ClusterObject]) -> None:
        """After a failure see to it that what was made goes."""
        if error is None:
            return
        if error.reason in ("LEASE_ENDED", "REQUEST_ID_IN_PROGRESS"):
            # Whoever ended it, or took its request id over, could not know what was made only after that.
            self._remover.run_soon(self._journal.change(self._undo(pending, touched)))
        self._remover.poke()

    async def _issue_made(self, issuing: _Issuing, pending: Lease) -> Issued:
        """Have the token minted for which all is made."""
        anchor = pending.objects[0] if pending.anchor else None
        if not issuing.call.record.announced:
            # Not before: making what it stands on may take long, and nobody is to wait for that.
            self._journal.announce()
            issuing.call.record.announced = True
        token = await self._mint(issuing, anchor, issuing.grant.token_ttl)
        lease = self._lease(issuing, token, pending.objects)
        issuing.call.record.change = lambda connection: lease_store.activate(connection, lease)
        if issuing.claim is not None:
            issuing.call.record.fence = Fence(lease.name, claim=issuing.claim)
        return self._issued(issuing, token, lease, issuing.grant.ttl)

    # Another token of a lease that is there.

    async def _replay(self, issuing: _Issuing, lease: Lease) -> Issued:
        """Have another token minted of the lease that the call's request id has got, on what that stands on."""
        issuing.call.record.replayed = True
        anchor = next((made for made in lease.objects if made.id == lease.anchor), None)
        if anchor is None:
            async with self._turn(issuing):
                return await self._issue_again(issuing, lease, None)
        self._anchors.hold(issuing.call, anchor)
        try:
            async with self._turn(issuing):
                return await self._issue_again(issuing, lease, anchor)
        except AnchorGone as gone:
            await self._anchors.lose(anchor, "its anchor was deleted in the cluster by somebody else")
            raise lease_over(lease) from gone

    async def _issue_again(self, issuing: _Issuing, lease: Lease, anchor: ClusterObject | None) -> Issued:
        good_for = life(issuing.grant, lease, self._clock())
        await self._announce(issuing, anchor)
        token = await self._mint(issuing, anchor, max(good_for, MINIMUM_TTL))
        self._check(issuing, token, anchor)
        # A cluster that took long has stamped it later than was reckoned with.
        end = lease.expire_time if lease.revocation == "PER_LEASE" else max(lease.expire_time, token.expire_time)
        longer = replace(lease, expire_time=end)
        issuing.call.record.change = lambda connection: lease_store.add_token(
            connection, longer, _token_of(token), self._clock()
        )
        return self._issued(issuing, token, longer, good_for)

    # All.

    async def _mint(self, issuing: _Issuing, anchor: ClusterObject | None, ttl: timedelta) -> IssuedToken:
        began = time.monotonic()
        token = await request_token(issuing.connection, issuing.grant, issuing.audit_id, anchor, ttl)
        self._turns.learn(issuing.config.name, time.monotonic() - began)
        await self._checkpoint("issue.minted")
        return token

    def _check(self, issuing: _Issuing, token: IssuedToken, anchor: ClusterObject | None) -> None:
        """Note what was minted, and hold it against what was granted."""
        granted, record = issuing.grant, issuing.call.record
        record.jti, record.token_expiration = token.jti, token.expire_time
        record.warnings = (*granted.terms.warnings, *by_cluster(granted.terms, token))
        check_minted(granted, token)
        check_bound(granted, token, anchor)
        check_min_ttl(min(token.ttl, granted.ttl), granted.terms.min_ttl, record.warnings)

    def _lease(self, issuing: _Issuing, token: IssuedToken, objects: Sequence[ClusterObject]) -> Lease:
        self._check(issuing, token, next((made for made in objects if made.kind == "Secret"), None))
        lease = self._pending(issuing, objects)
        return replace(
            lease,
            audiences=token.audiences,
            expire_time=lease_end(issuing.grant, token, self._clock()),
            stored_state="ACTIVE",
            owner="",
            objects=tuple(objects),
            tokens=(_token_of(token),),
        )

    def _issued(self, issuing: _Issuing, token: IssuedToken, lease: Lease, good_for: timedelta) -> Issued:
        record = issuing.call.record
        record.lease, record.expiration = lease.name, lease.expire_time
        return Issued(
            grant=issuing.grant,
            audiences=token.audiences,
            expiration=lease.expire_time,
            token_expiration=token.expire_time,
            granted_ttl=min(token.expire_time - token.issue_time, good_for),
            warnings=record.warnings,
            token=token,
            lease=lease.name,
            replayed=record.replayed,
        )


def _token_of(token: IssuedToken) -> LeaseToken:
    return LeaseToken(token.jti, token.kubernetes_audit_id, token.issue_time, token.expire_time)


def _foreseen(granted: Grant, now: datetime) -> Issued:
    end = now + granted.ttl
    return Issued(
        grant=granted,
        audiences=granted.audiences,
        expiration=end,
        token_expiration=now + granted.token_ttl,
        granted_ttl=granted.ttl,
        warnings=granted.terms.warnings,
    )

"""LeaseService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import lease_service_pb2 as pb
from kubevend.v1 import role_service_pb2
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call, Handler
from kubevend_server.clock import Clock
from kubevend_server.errors import InvalidArgument, NotFound, Violation
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.lease_watches import LeaseWatches
from kubevend_server.leases import Lease, LeaseFilter, State
from kubevend_server.paging import DEFAULT_PAGE_SIZE, PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.policy.visible import Kind
from kubevend_server.revocation import Revocation, Revoked
from kubevend_server.services import convert
from kubevend_server.store import leases as store
from kubevend_server.store.database import Database
from kubevend_server.store.lease_filters import MOST_SCANNED, by_end, position
from kubevend_server.streams import Opener

# Whatever the page size, so that the time of a page says little of what was passed over.
_BATCH = 200
_STATES: dict[int, State] = {
    pb.Lease.STATE_ACTIVE: "ACTIVE",
    pb.Lease.STATE_EXPIRED: "EXPIRED",
    pb.Lease.STATE_PENDING: "PENDING",
    pb.Lease.STATE_REVOKING: "REVOKING",
    pb.Lease.STATE_REVOKED: "REVOKED",
    pb.Lease.STATE_FAILED: "FAILED",
}


class LeaseService:
    """Reads leases, and ends them."""

    name = "kubevend.v1.LeaseService"

    def __init__(
        self,
        database: Database,
        authorizer: Authorizer,
        tokens: PageTokens,
        revocation: Revocation,
        feed: LeaseFeed,
        clock: Clock,
    ) -> None:
        self._revocation = revocation
        self._database = database
        self._authorizer = authorizer
        self._tokens = tokens
        self._clock = clock
        self._watches = LeaseWatches(database, authorizer, feed, clock, _filter, _to_proto)

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""
        return {
            "GetLease": self.get_lease,
            "ListLeases": self.list_leases,
            "RevokeLease": self.revoke_lease,
            "RevokeLeases": self.revoke_leases,
        }

    def openers(self) -> Mapping[str, Opener]:
        """Its methods with many answers, by name."""
        return {"WatchLeases": self._watches.run}

    async def get_lease(self, call: Call) -> Message:
        """Read one lease."""
        request = cast("pb.GetLeaseRequest", call.request)
        call.record.resource = request.name
        lease = await self._find(call, request.name)
        return pb.GetLeaseResponse(lease=_to_proto(lease, self._clock()))

    async def list_leases(self, call: Call) -> Message:
        """List the leases that the caller may get."""
        request = cast("pb.ListLeasesRequest", call.request)
        self._authorizer.require(call, Server())
        now = self._clock()
        wanted = _Wanted.of(_filter(request.filter), self._authorizer.gettable_leases(call))
        after = self._tokens.read(wanted.listing, request.page_token)
        found, position = await self._scan(call, wanted, after, request.page_size or DEFAULT_PAGE_SIZE, now)
        return pb.ListLeasesResponse(
            leases=[_to_proto(lease, now) for lease in found],
            next_page_token=self._tokens.write(wanted.listing, position),
        )

    async def revoke_lease(self, call: Call) -> Message:
        """End one lease."""
        request = cast("pb.RevokeLeaseRequest", call.request)
        call.record.request = convert.written(request)
        lease = await self._find(call, request.name)
        revoked, others = await self._revocation.revoke(
            call, lease, end_shared=request.end_shared, validate_only=request.validate_only
        )
        return pb.RevokeLeaseResponse(revocation=_revoked_to_proto(revoked), others=map(_revoked_to_proto, others))

    async def revoke_leases(self, call: Call) -> Message:
        """End every live lease that a filter finds."""
        request = cast("pb.RevokeLeasesRequest", call.request)
        call.record.request = convert.written(request)
        self._authorizer.require(call, Server())
        narrowed = _filter(request.filter)
        if narrowed == LeaseFilter():
            raise InvalidArgument(
                "FILTER_EMPTY",
                "filter is empty, which would end every lease: set what tells those that you mean, such as "
                "role or caller.",
                violations=[Violation("filter", "at least one of its fields set")],
            )
        revoked, more = await self._revocation.revoke_all(
            call, narrowed, end_shared=request.end_shared, validate_only=request.validate_only
        )
        return pb.RevokeLeasesResponse(revocations=map(_revoked_to_proto, revoked), more=more)

    async def _find(self, call: Call, name: str) -> Lease:
        call.record.resource = name
        lease = await self._database.read(lambda connection: store.get(connection, name))
        not_found = NotFound(
            "LEASE_NOT_FOUND",
            f"{name} does not exist, or you may not see it. ListLeases shows those that you may see.",
            metadata={"lease": name},
        )
        self._authorizer.require(call, lease or _nothing(name), hidden=not_found)
        if lease is None:
            raise not_found
        return lease

    async def _scan(self, call: Call, wanted: _Wanted, after: str, size: int, now: datetime) -> tuple[list[Lease], str]:
        """Find the next leases that the caller may get, and where to go on; empty at the end."""
        found: list[Lease] = []
        left = MOST_SCANNED
        while wanted.filters:
            query = partial(
                store.merged_page, filters=wanted.filters, after=after, limit=min(_BATCH, left), most_scanned=left
            )
            batch = await self._database.read(query)
            for lease in batch.found:
                # What has run out is written down only a moment later.
                fits = wanted.state in (None, lease.state(now))
                if fits and self._authorizer.may(call, "GetLease", lease):
                    found.append(lease)
                if len(found) == size:
                    return found, position(wanted.filters[0], lease)
            after, left = batch.position, left - batch.scanned
            if not after or left < len(wanted.filters):
                return found, after
        return found, ""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which leases a list is to find.

    Attributes:
        listing: which list it is, for its page tokens.
        filters: what is asked for, narrowed to each kind of leases that the caller may get.
        state: the state that is asked for.
    """

    listing: str
    filters: list[LeaseFilter]
    state: State | None

    @staticmethod
    def of(asked: LeaseFilter, kinds: Sequence[Kind]) -> _Wanted:
        """What is asked for, as far as it is of these kinds."""
        filters = [
            _narrowed(asked, kind)
            for kind in kinds
            if all(getattr(asked, column) in ("", value) for column, value in kind.items())
        ]
        # Several filters are sorted by names; where a change of the policies changes the order, a list starts again.
        order = "by end" if filters and by_end(filters[0]) else "by name"
        return _Wanted(f"leases {astuple(asked)} {order}", filters, asked.state)


def _narrowed(asked: LeaseFilter, kind: Kind) -> LeaseFilter:
    return replace(
        asked,
        role=kind.get("role", asked.role),
        config=kind.get("config", asked.config),
        caller=kind.get("caller", asked.caller),
        namespace=kind.get("namespace", asked.namespace),
        service_account=kind.get("service_account", asked.service_account),
    )


def _nothing(name: str) -> Lease:
    """What stands for a lease that is not there, so that the policy is asked all the same."""
    never = datetime.min.replace(tzinfo=UTC)
    return Lease(name, "", "", "", "", "", (), never, never)


def _filter(proto: pb.LeaseFilter) -> LeaseFilter:
    return LeaseFilter(
        role=proto.role,
        config=proto.config,
        namespace=proto.namespace,
        service_account=proto.service_account,
        caller=proto.caller,
        state=_STATES.get(proto.state),
        expire_before=convert.moment(proto, "expire_before"),
        expire_after=convert.moment(proto, "expire_after"),
        create_before=convert.moment(proto, "create_before"),
        create_after=convert.moment(proto, "create_after"),
    )


def _to_proto(lease: Lease, now: datetime) -> pb.Lease:
    proto = pb.Lease(
        name=lease.name,
        role=lease.role,
        config=lease.config,
        caller=lease.caller,
        namespace=lease.namespace,
        service_account=lease.service_account,
        audiences=lease.audiences,
        state=pb.Lease.State.Value(f"STATE_{lease.state(now)}"),
        revocation=role_service_pb2.Revocation.Value(f"REVOCATION_{lease.revocation}"),
        cluster_wide=lease.cluster_wide,
        end_cause=lease.end_cause,
        objects=[
            pb.LeaseObject(kind=made.kind, namespace=made.namespace, name=made.name, shared=bool(made.scope))
            for made in lease.objects
        ],
    )
    convert.set_timestamp(proto.end_time, lease.end_time)
    if lease.ending is not None and lease.stored_state == "REVOKING":
        proto.ending.attempts = lease.ending.attempts
        proto.ending.reason = lease.ending.reason
        proto.ending.message = lease.ending.message
        convert.set_timestamp(proto.ending.next_attempt_time, lease.ending.next_attempt_time)
    convert.set_timestamp(proto.create_time, lease.create_time)
    convert.set_timestamp(proto.expire_time, lease.expire_time)
    for token in lease.tokens:
        minted = proto.tokens.add(jti=token.jti, kubernetes_audit_id=token.kubernetes_audit_id)
        convert.set_timestamp(minted.issue_time, token.issue_time)
        convert.set_timestamp(minted.expire_time, token.expire_time)
    return proto


def _revoked_to_proto(revoked: Revoked) -> pb.LeaseRevocation:
    proto = pb.LeaseRevocation(
        lease=revoked.lease, state=pb.Lease.State.Value(f"STATE_{revoked.state}"), message=revoked.message
    )
    convert.set_timestamp(proto.works_until, revoked.works_until)
    return proto

"""LeaseService."""

from __future__ import annotations

from dataclasses import astuple
from datetime import UTC, datetime
from functools import partial
from typing import cast

from google.protobuf.message import Message

from kubevend.v1 import lease_service_pb2 as pb
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call
from kubevend_server.clock import Clock
from kubevend_server.errors import NotFound
from kubevend_server.interceptors import Handler
from kubevend_server.leases import Lease, LeaseFilter, State
from kubevend_server.paging import DEFAULT_PAGE_SIZE, PageTokens
from kubevend_server.policy.access import Server
from kubevend_server.services import convert
from kubevend_server.store import leases as store
from kubevend_server.store.database import Database

_MOST_SCANNED = 1000
# Whatever the page size, so that the time of a page says little of what was passed over.
_BATCH = 200
_STATES: dict[int, State] = {pb.Lease.STATE_ACTIVE: "ACTIVE", pb.Lease.STATE_EXPIRED: "EXPIRED"}


class LeaseService:
    """Reads leases."""

    name = "kubevend.v1.LeaseService"

    def __init__(self, database: Database, authorizer: Authorizer, tokens: PageTokens, clock: Clock) -> None:
        self._database = database
        self._authorizer = authorizer
        self._tokens = tokens
        self._clock = clock

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""
        return {"GetLease": self.get_lease, "ListLeases": self.list_leases}

    async def get_lease(self, call: Call) -> Message:
        """Read one lease."""
        request = cast("pb.GetLeaseRequest", call.request)
        call.record.resource = request.name
        lease = await self._database.read(lambda connection: store.get(connection, request.name))
        not_found = NotFound(
            "LEASE_NOT_FOUND",
            f"{request.name} does not exist, or you may not see it. ListLeases shows those that you may see.",
            metadata={"lease": request.name},
        )
        self._authorizer.require(call, lease or _nothing(request.name), hidden=not_found)
        if lease is None:
            raise not_found
        return pb.GetLeaseResponse(lease=_to_proto(lease, self._clock()))

    async def list_leases(self, call: Call) -> Message:
        """List the leases that the caller may get."""
        request = cast("pb.ListLeasesRequest", call.request)
        self._authorizer.require(call, Server())
        narrowed = _filter(request.filter)
        listing, now = f"leases {astuple(narrowed)}", self._clock()
        after = self._tokens.read(listing, request.page_token)
        found, position = await self._scan(call, narrowed, after, request.page_size or DEFAULT_PAGE_SIZE, now)
        return pb.ListLeasesResponse(
            leases=[_to_proto(lease, now) for lease in found], next_page_token=self._tokens.write(listing, position)
        )

    async def _scan(
        self, call: Call, narrowed: LeaseFilter, after: str, size: int, now: datetime
    ) -> tuple[list[Lease], str]:
        """Find the next leases that the caller may get, and where to go on; empty at the end."""
        found: list[Lease] = []
        scanned = 0
        while True:
            query = partial(store.page, narrowed=narrowed, after=after, limit=_BATCH, now=now)
            batch = await self._database.read(query)
            for lease in batch:
                after, scanned = lease.name, scanned + 1
                if self._authorizer.may(call, "GetLease", lease):
                    found.append(lease)
                if len(found) == size or scanned == _MOST_SCANNED:
                    return found, after
            if len(batch) < _BATCH:
                return found, ""


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
    )
    convert.set_timestamp(proto.create_time, lease.create_time)
    convert.set_timestamp(proto.expire_time, lease.expire_time)
    for token in lease.tokens:
        minted = proto.tokens.add(jti=token.jti, kubernetes_audit_id=token.kubernetes_audit_id)
        convert.set_timestamp(minted.issue_time, token.issue_time)
        convert.set_timestamp(minted.expire_time, token.expire_time)
    return proto

"""IssueService."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, cast

from google.protobuf.message import Message

from kubevend.v1 import issue_service_pb2 as pb
from kubevend.v1 import role_service_pb2
from kubevend_server.calls import Call, Handler
from kubevend_server.clock import Clock
from kubevend_server.errors import InvalidArgument, KubevendError, Violation
from kubevend_server.issuance import Issuance, Issued
from kubevend_server.lease_feed import LeaseFeed
from kubevend_server.policy.lifetimes import seconds
from kubevend_server.policy.terms import Asked
from kubevend_server.request_ids import Once
from kubevend_server.services import convert
from kubevend_server.streams import Opener
from kubevend_server.token_streams import Issuer, TokenStreams


class IssueService:
    """Issues tokens."""

    name = "kubevend.v1.IssueService"

    def __init__(self, issuance: Issuance, feed: LeaseFeed, renew_after: float, clock: Clock) -> None:
        self._issuance = issuance
        # Not a secret: it keeps tokens that were issued together from being renewed together.
        spread = partial(random.uniform, 0.95, 1.05)
        self._token_streams = TokenStreams(
            Issuer(self.issue_on_stream, self.ask_on_stream, self.may_issue), feed, renew_after, clock, spread
        )

    def handlers(self) -> dict[str, Handler]:
        """Its methods with one answer, by name."""
        return {"IssueToken": self.issue_token}

    def openers(self) -> Mapping[str, Opener]:
        """Its methods with many answers, by name."""
        return {"StreamTokens": self._token_streams.run}

    async def issue_token(self, call: Call) -> Message:
        """Issue one token."""
        return await self._issue(call, cast("pb.IssueTokenRequest", call.request), "call")

    async def issue_on_stream(self, call: Call) -> Message:
        """Issue the next token of a stream."""
        request = cast("pb.StreamTokensRequest", call.request).issue
        if request.validate_only:
            raise InvalidArgument(
                "FIELD_INVALID",
                "issue.validate_only must be left out: a stream issues tokens. IssueToken takes it.",
                violations=[Violation("issue.validate_only", "must be left out")],
            )
        return await self._issue(call, request, "renewal" if call.stream else "stream")

    async def ask_on_stream(self, call: Call) -> Message:
        """Refuse where the next token of a stream would be."""
        request = cast("pb.StreamTokensRequest", call.request).issue
        call.record.only_asks = True
        asked = _asked(request)
        call.record.request = _written(request, asked)
        await self._issuance.decide(call, request.role, asked)
        return pb.StreamTokensResponse()

    async def may_issue(self, call: Call) -> bool:
        """Whether the next token of a stream looks allowed, told of a call that is never made."""
        request = cast("pb.StreamTokensRequest", call.request).issue
        try:
            await self._issuance.decide(call, request.role, _asked(request))
        except KubevendError:
            return False
        return True

    async def _issue(
        self, call: Call, request: pb.IssueTokenRequest, kind: Literal["call", "stream", "renewal"]
    ) -> Message:
        call.record.resource = request.role
        asked = _asked(request)
        call.record.request = _written(request, asked)
        once = once_of(request.request_id, call.record.request, kind) if request.request_id else None
        issued = await self._issuance.issue(call, request.role, asked, once, validate_only=request.validate_only)
        return _reply(issued)


def once_of(request_id: str, written: Mapping[str, Any], kind: Literal["call", "stream", "renewal"]) -> Once:
    """By what a call that is made again is known: its request id, and all else that it asks."""
    others = {key: value for key, value in written.items() if key != "requestId"}
    fingerprint = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
    return Once(str(uuid.UUID(request_id)), fingerprint, kind)


def _asked(request: pb.IssueTokenRequest) -> Asked:
    return Asked(
        namespace=request.namespace,
        service_account=request.service_account_name,
        audiences=tuple(request.audiences),
        ttl=convert.duration(request, "ttl"),
        min_ttl=convert.duration(request, "min_ttl"),
        cluster_wide=request.cluster_wide,
    )


def _written(request: pb.IssueTokenRequest, asked: Asked) -> dict[str, Any]:
    """The request in proto JSON; by hand, since this is the hot path and json_format takes ten times as long."""
    written = {
        "role": request.role,
        "namespace": asked.namespace,
        "serviceAccountName": asked.service_account,
        "ttl": seconds(asked.ttl) if asked.ttl is not None else None,
        "minTtl": seconds(asked.min_ttl) if asked.min_ttl is not None else None,
        "audiences": list(asked.audiences),
        "requestId": request.request_id,
        "validateOnly": request.validate_only,
        "clusterWide": request.cluster_wide,
    }
    return {key: value for key, value in written.items() if value}


def _reply(issued: Issued) -> pb.IssueTokenResponse:
    reply = pb.IssueTokenResponse(
        namespace=issued.grant.namespace,
        service_account=issued.grant.service_account,
        audiences=issued.audiences,
        lease=issued.lease,
        warnings=convert.warnings(issued.warnings),
        revocation=role_service_pb2.Revocation.Value(f"REVOCATION_{issued.grant.terms.revocation}"),
        decision=pb.Decision(policies=issued.grant.decision.policies, rules=issued.grant.terms.rules),
    )
    convert.set_timestamp(reply.expiration, issued.expiration)
    convert.set_timestamp(reply.token_expiration, issued.token_expiration)
    convert.set_duration(reply.granted_ttl, issued.granted_ttl)
    reply.replayed = issued.replayed
    if issued.token is not None:
        reply.token = issued.token.token
        reply.jti = issued.token.jti
        reply.kubernetes_audit_id = issued.token.kubernetes_audit_id
    return reply

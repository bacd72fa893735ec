"""IdentityService."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from kubevend.v1 import identity_service_pb2 as pb
from kubevend_server.authorization import Authorizer
from kubevend_server.calls import Call, Handler
from kubevend_server.policy.access import Server
from kubevend_server.streams import Opener

_ACTIONS = ("ListConfigs", "ListLeases", "ListRoles", "RevokeLeases", "WatchLeases")
"""What is asked about the server itself."""


class IdentityService:
    """Tells callers who they are."""

    name = "kubevend.v1.IdentityService"

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    def handlers(self) -> dict[str, Handler]:
        """Its methods with one answer, by name."""
        return {"WhoAmI": self.who_am_i}

    def openers(self) -> Mapping[str, Opener]:
        """None with many answers."""
        return {}

    async def who_am_i(self, call: Call) -> Message:
        """Tell who the caller is to kubevend."""
        who = call.who
        return pb.WhoAmIResponse(
            name=who.name,
            kind=who.kind,
            mechanism=who.mechanism,
            attributes=dict((*who.attributes, *who.claims)),
            groups=who.groups,
            credential_id=who.credential_id,
            proxy=who.proxy,
            source_address=call.source_ip,
            actions=[action for action in _ACTIONS if self._authorizer.may(call, action, Server())],
        )

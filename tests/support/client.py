"""A caller of kubevend, as tests need one: real gRPC, and errors taken apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kubevend.v1 import (
    config_service_pb2_grpc,
    identity_service_pb2_grpc,
    issue_service_pb2,
    issue_service_pb2_grpc,
    lease_service_pb2_grpc,
    role_service_pb2,
    role_service_pb2_grpc,
)
from tests.support.evidence import Witness
from tests.support.spiffe import Svid

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)

KUBERNETES_AUDIENCE = "https://kubernetes.default.svc"


@dataclass(frozen=True)
class Refusal:
    """An error as a caller sees it. `violations` are the fields at fault; `details` the names of all details."""

    status: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


class Client:
    """A caller with one bearer token. `tokens` has every token that it was ever given."""

    def __init__(self, address: str, ca_file: Path | None, bearer: str = "", svid: Svid | None = None) -> None:
        """Prepare a channel: TLS, by a certificate where there is one, or plain text where there is no CA."""
        if ca_file is None:
            self.channel = grpc.insecure_channel(address)
        else:
            shown = (svid.private_key.encode(), svid.certificate.encode()) if svid else (None, None)
            credentials = grpc.ssl_channel_credentials(ca_file.read_bytes(), *shown)
            # Else two clients of one process, alike in what they show, would share a connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            self.channel = grpc.secure_channel(address, credentials, options)
        self.channel = grpc.intercept_channel(self.channel, Witness())
        self.metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        self.tokens: list[str] = []
        self.configs = config_service_pb2_grpc.ConfigServiceStub(self.channel)
        self.roles = role_service_pb2_grpc.RoleServiceStub(self.channel)
        self.issuing = issue_service_pb2_grpc.IssueServiceStub(self.channel)
        self.identity = identity_service_pb2_grpc.IdentityServiceStub(self.channel)
        self.leases = lease_service_pb2_grpc.LeaseServiceStub(self.channel)

    def call(self, method: Callable[..., Reply], request: Message, timeout: float = 30) -> Reply:
        """Call a method of a stub."""
        return method(request, metadata=self.metadata, timeout=timeout)

    def refused(self, method: Callable[..., Any], request: Message, timeout: float = 30) -> Refusal:
        """Call a method that must fail, and take the error apart."""
        try:
            reply = self.call(method, request, timeout)
        except grpc.RpcError as error:
            return take_apart(error)
        raise AssertionError(f"not refused: {type(reply).__name__}")

    def issue(self, role: str = "roles/ci", **fields: Any) -> issue_service_pb2.IssueTokenResponse:
        """Have a token issued."""
        request = issue_service_pb2.IssueTokenRequest(role=role, **fields)
        reply = self.call(self.issuing.IssueToken, request)
        self.tokens.append(reply.token)
        return reply

    def stream(self, role: str = "roles/ci", timeout: float = 120, **fields: Any) -> Any:
        """Open a stream of tokens: an iterator of its answers, which can be cancelled."""
        issue = issue_service_pb2.IssueTokenRequest(role=role, **fields)
        request = issue_service_pb2.StreamTokensRequest(issue=issue)
        return self.issuing.StreamTokens(request, metadata=self.metadata, timeout=timeout)

    def issue_refused(self, role: str = "roles/ci", **fields: Any) -> Refusal:
        """Ask for a token that must not be issued."""
        return self.refused(self.issuing.IssueToken, issue_service_pb2.IssueTokenRequest(role=role, **fields))

    def create_role(self, role_id: str = "ci", **fields: Any) -> role_service_pb2.Role:
        """Make a role; what is not given allows ServiceAccount demo and Kubernetes' own audience."""
        defaults = {"allowed_service_accounts": ["demo"], "allowed_audiences": [KUBERNETES_AUDIENCE]}
        role = role_service_pb2.Role(**{**defaults, **fields})
        request = role_service_pb2.CreateRoleRequest(role_id=role_id, role=role)
        return self.call(self.roles.CreateRole, request).role

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def take_apart(error: grpc.RpcError) -> Refusal:
    """Take an error apart."""
    # Every error of a call is the call itself as well; the types do not say so.
    status = rpc_status.from_call(cast("grpc.Call", error))
    if status is None:
        return Refusal(error.code().name, "", error.details() or "")
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    names = []
    for detail in status.details:
        names.append(detail.TypeName())
        detail.Unpack(info)
        detail.Unpack(request)
    return Refusal(
        status=error.code().name,
        reason=info.reason,
        message=status.message,
        metadata=dict(info.metadata),
        violations=tuple(v.field for v in request.field_violations),
        details=tuple(names),
    )


def claims(token: str) -> dict[str, Any]:
    """What a JWT says, unchecked."""
    middle = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found

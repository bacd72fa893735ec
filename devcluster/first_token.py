"""What a person would do first over the API: a config, a role, a token, and a look at what it left."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from devcluster.again import another_folder, run_again
from kubevend.v1 import (
    config_service_pb2,
    config_service_pb2_grpc,
    issue_service_pb2,
    issue_service_pb2_grpc,
    lease_service_pb2,
    lease_service_pb2_grpc,
    role_service_pb2,
    role_service_pb2_grpc,
)

CONFIG = "default"
ROLE = "quickstart"
REVOCABLE = "quickstart-revocable"
"""The role whose tokens can be ended."""

_CALL_SECONDS = 30

Answer = TypeVar("Answer", bound=Message)


class ApiError(Exception):
    """kubevend refused a call; the message is the server's, and what to do."""


@dataclass(frozen=True)
class Review:
    """Who the API server takes the bearer of a token for.

    Attributes:
        username: As in "system:serviceaccount:ci:runner".
        extra: What else it knows, such as the token's id.
    """

    username: str
    extra: dict[str, list[str]]


class Admin:
    """A client of kubevend with the bootstrap admin's token."""

    def __init__(self, address: str, ca_file: Path, token: str) -> None:
        """Prepare a channel; nothing is sent yet."""
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_file.read_bytes()))
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def put_config(self, host: str, ca: str, token_file: Path) -> str:
        """Make configs/default, or change it where it is another.

        Args:
            host: The API server's URL.
            ca: What vouches for it, PEM.
            token_file: Holds kubevend's own token.

        Returns:
            What was done.

        Raises:
            ApiError: kubevend refused.
        """
        stub = config_service_pb2_grpc.ConfigServiceStub(self._channel)
        wanted = config_service_pb2.Config(
            name=f"configs/{CONFIG}", kubernetes_host=host, kubernetes_ca_cert=ca, token_file=str(token_file)
        )
        found = self._get(stub.GetConfig, config_service_pb2.GetConfigRequest(name=wanted.name))
        if found is None:
            create = config_service_pb2.CreateConfigRequest(config_id=CONFIG, config=wanted)
            self._call(stub.CreateConfig, create)
            return "made"
        fields = ("kubernetes_host", "kubernetes_ca_cert", "token_file")
        if _same(found.config, wanted, fields):
            return "found from an earlier run"
        update = config_service_pb2.UpdateConfigRequest(config=wanted, update_mask=FieldMask(paths=fields))
        self._call(stub.UpdateConfig, update)
        return "changed to this run's cluster"

    def put_role(self, role_id: str, namespace: str, service_account: str, audiences: Sequence[str]) -> str:
        """Make one of the two roles for one ServiceAccount, or put it back where it is another.

        Returns:
            What was done.

        Raises:
            ApiError: kubevend refused.
        """
        stub = role_service_pb2_grpc.RoleServiceStub(self._channel)
        wanted = role_service_pb2.Role(
            name=f"roles/{role_id}",
            config=f"configs/{CONFIG}",
            allowed_namespaces=[namespace],
            allowed_service_accounts=[service_account],
            allowed_audiences=audiences,
            default_audiences=audiences[:1],
            revocation=(
                role_service_pb2.REVOCATION_PER_LEASE if role_id == REVOCABLE else role_service_pb2.REVOCATION_NONE
            ),
        )
        found = self._get(stub.GetRole, role_service_pb2.GetRoleRequest(name=wanted.name))
        if found is None:
            self._call(stub.CreateRole, role_service_pb2.CreateRoleRequest(role_id=role_id, role=wanted))
            return "made"
        fields = (
            "config",
            "allowed_namespaces",
            "allowed_service_accounts",
            "allowed_audiences",
            "default_audiences",
            "revocation",
        )
        if _same(found.role, wanted, fields):
            return "found from an earlier run"
        update = role_service_pb2.UpdateRoleRequest(role=wanted, update_mask=FieldMask(paths=fields))
        self._call(stub.UpdateRole, update)
        return "put back to what the first run needs"

    def issue(self, role_id: str) -> issue_service_pb2.IssueTokenResponse:
        """Issue a token through a role.

        Raises:
            ApiError: kubevend refused, or could not.
        """
        stub = issue_service_pb2_grpc.IssueServiceStub(self._channel)
        return self._call(stub.IssueToken, issue_service_pb2.IssueTokenRequest(role=f"roles/{role_id}"))

    def revoke(self, lease: str) -> str:
        """End a lease, and return what kubevend says of its token.

        Raises:
            ApiError: kubevend refused, or could not end it.
        """
        stub = lease_service_pb2_grpc.LeaseServiceStub(self._channel)
        answer = self._call(stub.RevokeLease, lease_service_pb2.RevokeLeaseRequest(name=lease)).revocation
        if answer.state != lease_service_pb2.Lease.STATE_REVOKED:
            raise ApiError(f"{lease} could not be ended at once: {answer.message}")
        return f"its token works until {answer.works_until.ToJsonString()} at the longest"

    def lease(self, name: str) -> lease_service_pb2.Lease:
        """Find a lease in the list, as a person would who looks what is out there.

        Raises:
            ApiError: kubevend refused, or the lease is not among the newest.
        """
        stub = lease_service_pb2_grpc.LeaseServiceStub(self._channel)
        newest = lease_service_pb2.ListLeasesRequest(
            filter=lease_service_pb2.LeaseFilter(role=f"roles/{ROLE}"), page_size=10
        )
        for lease in self._call(stub.ListLeases, newest).leases:
            if lease.name == name:
                return lease
        raise ApiError(f"{name} is not among the newest leases, though it was just granted.")

    def _get(self, method: Callable[..., Answer], request: Message) -> Answer | None:
        try:
            return method(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise _refused(error) from error

    def _call(self, method: Callable[..., Answer], request: Message) -> Answer:
        try:
            return method(request, metadata=self._metadata, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            raise _refused(error) from error


def who_is(token: str, server: str, ca: str) -> Review:
    """Ask the API server whom it takes the bearer of a token for, by SelfSubjectReview.

    Raises:
        ApiError: The API server does not accept it.
    """
    status, answer = _review_self(token, server, ca)
    if status >= 300:  # noqa: PLR2004 - HTTP's own line between success and the rest
        raise ApiError(f"The API server does not accept the token: {answer.get('message', status)}")
    user = answer["status"]["userInfo"]
    return Review(user["username"], user.get("extra", {}))


def is_accepted(token: str, server: str, ca: str) -> bool:
    """Ask the API server whether it still accepts a token."""
    return _review_self(token, server, ca)[0] != HTTPStatus.UNAUTHORIZED


def _review_self(token: str, server: str, ca: str) -> tuple[int, dict[str, Any]]:
    """Show a token to the API server, in a header: every user of the machine could read it in a command line."""
    address = urlsplit(server)
    context = ssl.create_default_context(cadata=ca or None)
    connection = HTTPSConnection(address.hostname or "", address.port or 443, context=context, timeout=_CALL_SECONDS)
    body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    return response.status, answer


def audit_event(audit_file: Path, lease: str) -> dict[str, Any]:
    """Return the audit event of the call that granted a lease.

    Raises:
        ApiError: There is none.
    """
    for line in reversed(audit_file.read_text().splitlines()):
        event: dict[str, Any] = json.loads(line)
        if event.get("lease") == lease and event.get("stage") == "STAGE_COMPLETE":
            return event
    raise ApiError(f"{audit_file} has no event of {lease}.")


def _same(found: Message, wanted: Message, fields: Sequence[str]) -> bool:
    return all(getattr(found, field) == getattr(wanted, field) for field in fields)


def _refused(error: grpc.RpcError) -> ApiError:
    message = f"kubevend answered {error.code().name}: {error.details()}"
    if "live leases" in (error.details() or ""):
        message += (
            "\nThe cluster is another one than at the last run, and tokens of the old one are still alive. Use a "
            f"folder of its own for this one: {run_again(KUBEVEND_DEV_DIR=another_folder())}"
        )
    return ApiError(message)

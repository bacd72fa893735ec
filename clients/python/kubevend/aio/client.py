"""kubevend's API, called and awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from kubevend.channels import CALL_SECONDS, OPTIONS, PLAIN_OPTIONS, Lines, error_of
from kubevend.connection import Settings
from kubevend.tokens import Token, issue_request, new_request_id
from kubevend.v1 import (
    config_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    issue_service_pb2_grpc,
    lease_service_pb2_grpc,
    role_service_pb2_grpc,
)

if TYPE_CHECKING:
    from kubevend.v1.config_service_pb2_grpc import ConfigServiceAsyncStub
    from kubevend.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from kubevend.v1.issue_service_pb2_grpc import IssueServiceAsyncStub
    from kubevend.v1.lease_service_pb2_grpc import LeaseServiceAsyncStub
    from kubevend.v1.role_service_pb2_grpc import RoleServiceAsyncStub

Answer = TypeVar("Answer")


class Client:
    """A caller of kubevend, of one event loop's. It connects at its first call.

    The stubs offer every method of the API, with the credential on each call, 10 s as the deadline of those with one
    answer, and errors raised as `KubevendError`.

    Attributes:
        issuing: IssueService.
        roles: RoleService.
        configs: ConfigService.
        leases: LeaseService.
        identity: IdentityService.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Take where kubevend is and what to show it; from the environment, where it is not said.

        Raises:
            ClientError: the environment does not say (SETTINGS_INVALID).
        """
        settings = settings or Settings.from_environment()
        self._lines = Lines(settings, lambda credentials: _connect(settings.address, credentials))
        channel = cast("grpc.aio.Channel", _CallingChannel(self._lines))
        self.issuing: IssueServiceAsyncStub = issue_service_pb2_grpc.IssueServiceStub(channel)
        self.roles: RoleServiceAsyncStub = role_service_pb2_grpc.RoleServiceStub(channel)
        self.configs: ConfigServiceAsyncStub = config_service_pb2_grpc.ConfigServiceStub(channel)
        self.leases: LeaseServiceAsyncStub = lease_service_pb2_grpc.LeaseServiceStub(channel)
        self.identity: IdentityServiceAsyncStub = identity_service_pb2_grpc.IdentityServiceStub(channel)

    async def issue(
        self,
        role: str,
        *,
        namespace: str = "",
        service_account_name: str = "",
        ttl: timedelta | None = None,
        min_ttl: timedelta | None = None,
        audiences: Sequence[str] = (),
        request_id: str = "",
        validate_only: bool = False,
        timeout: float = CALL_SECONDS,  # noqa: ASYNC109 - gRPC sends it along, so that the server knows it too
    ) -> Token:
        """Have one token issued: as `kubevend.Client.issue`.

        Raises:
            KubevendError: it was refused, or failed.
        """
        request = issue_request(
            role,
            namespace=namespace,
            service_account_name=service_account_name,
            ttl=ttl,
            min_ttl=min_ttl,
            audiences=audiences,
            request_id=request_id or new_request_id(),
            validate_only=validate_only,
        )
        return Token.of(await self.issuing.IssueToken(request, timeout=timeout))

    async def whoami(self, timeout: float = CALL_SECONDS) -> identity_service_pb2.WhoAmIResponse:  # noqa: ASYNC109 - as above
        """Ask who kubevend takes the caller for.

        Raises:
            KubevendError: it failed.
        """
        return await self.identity.WhoAmI(identity_service_pb2.WhoAmIRequest(), timeout=timeout)

    async def close(self) -> None:
        """Close the connection, and end the calls that run."""
        for channel in [*self._lines.idle(), *self._lines.end()]:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _connect(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, PLAIN_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, OPTIONS)


class Stream(Generic[Answer]):
    """The answers of a call that has many. To be iterated by one task; any may `cancel` it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[Answer]:
        try:
            async for answer in self._call:
                yield answer
        except grpc.RpcError as failure:
            raise error_of(failure) from failure

    def cancel(self) -> None:
        """End it: whoever waits for its next answer gets `asyncio.CancelledError`."""
        self._call.cancel()


class _UnaryUnary:
    """A method with one answer."""

    def __init__(self, lines: Lines[grpc.aio.Channel], on: Callable[[grpc.aio.Channel], Any]) -> None:
        self._lines = lines
        self._on = on

    async def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC's own
        metadata: Any = None,
        **others: Any,
    ) -> Any:
        for channel in self._lines.idle():
            await channel.close()
        sent = self._lines.metadata(metadata)
        line, method = self._lines.take(self._on)
        try:
            return await method(request, timeout=timeout or CALL_SECONDS, metadata=sent, **others)
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        finally:
            self._lines.give_back(line)


class _UnaryStream:
    """A method with many answers."""

    def __init__(self, lines: Lines[grpc.aio.Channel], on: Callable[[grpc.aio.Channel], Any]) -> None:
        self._lines = lines
        self._on = on

    def __call__(self, request: Message, *, metadata: Any = None, **others: Any) -> Stream[Any]:
        sent = self._lines.metadata(metadata)
        line, method = self._lines.take(self._on)
        call = method(request, metadata=sent, **others)
        call.add_done_callback(lambda _: self._lines.give_back(line))
        return Stream(call)


class _CallingChannel:
    """What the stubs are made on: each call goes over the channel as it is then."""

    def __init__(self, lines: Lines[grpc.aio.Channel]) -> None:
        self._lines = lines

    def unary_unary(self, *args: Any, **named: Any) -> Any:
        return _UnaryUnary(self._lines, lambda channel: channel.unary_unary(*args, **named))

    def unary_stream(self, *args: Any, **named: Any) -> Any:
        return _UnaryStream(self._lines, lambda channel: channel.unary_stream(*args, **named))

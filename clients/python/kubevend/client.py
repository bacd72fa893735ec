"""kubevend's API, called and waited for. `kubevend.aio` has the same for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, cast

import grpc
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

Answer = TypeVar("Answer")


class Client:
    """A caller of kubevend. It connects at its first call; threads may share it.

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
        channel = _CallingChannel(self._lines)
        self.issuing = issue_service_pb2_grpc.IssueServiceStub(channel)
        self.roles = role_service_pb2_grpc.RoleServiceStub(channel)
        self.configs = config_service_pb2_grpc.ConfigServiceStub(channel)
        self.leases = lease_service_pb2_grpc.LeaseServiceStub(channel)
        self.identity = identity_service_pb2_grpc.IdentityServiceStub(channel)

    def issue(
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
        timeout: float = CALL_SECONDS,
    ) -> Token:
        """Have one token issued.

        Args:
            role: `quickstart` or `roles/quickstart`.
            namespace: the ServiceAccount's namespace; left out, the only one that the role allows.
            service_account_name: the ServiceAccount's name; left out, the only one that the role allows.
            ttl: how long the lease should live; left out, the role's.
            min_ttl: the shortest life that is of use: rather fail than get less.
            audiences: the token's; left out, the role's.
            request_id: a UUID4, to be sent again where an answer was lost, to get a token of the same lease; left out,
                a new one, by which gRPC's own retries are known.
            validate_only: only tell what would happen; the token is then empty.
            timeout: in seconds.

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
        return Token.of(self.issuing.IssueToken(request, timeout=timeout))

    def whoami(self, timeout: float = CALL_SECONDS) -> identity_service_pb2.WhoAmIResponse:
        """Ask who kubevend takes the caller for.

        Raises:
            KubevendError: it failed.
        """
        return self.identity.WhoAmI(identity_service_pb2.WhoAmIRequest(), timeout=timeout)

    def close(self) -> None:
        """Close the connection, and end the calls that run."""
        for channel in self._lines.end():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _connect(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, PLAIN_OPTIONS)
    return grpc.secure_channel(address, credentials, OPTIONS)


def _close_idle(lines: Lines[grpc.Channel]) -> None:
    # Before a call, and not where one ends: that is in gRPC's own thread, which must not wait for itself.
    for channel in lines.idle():
        channel.close()


class Stream(Generic[Answer]):
    """The answers of a call that has many. To be iterated by one thread; any may `cancel` it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        try:
            return cast("Answer", next(self._call))
        except grpc.RpcError as failure:
            raise error_of(failure) from failure

    def cancel(self) -> None:
        """End it: whoever waits for its next answer gets a KubevendError with code CANCELLED."""
        self._call.cancel()


class _UnaryUnary:
    """A method with one answer."""

    def __init__(self, lines: Lines[grpc.Channel], on: Callable[[grpc.Channel], Any]) -> None:
        self._lines = lines
        self._on = on

    def __call__(self, request: Message, timeout: float | None = None, metadata: Any = None, **others: Any) -> Any:
        return self.with_call(request, timeout, metadata, **others)[0]

    def with_call(self, request: Message, timeout: float | None = None, metadata: Any = None, **others: Any) -> Any:
        """The answer, and the call."""
        sent = self._lines.metadata(metadata)
        _close_idle(self._lines)
        line, method = self._lines.take(self._on)
        try:
            return method.with_call(request, timeout or CALL_SECONDS, sent, **others)
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        except ValueError as problem:  # gRPC's word for a channel that was closed just now
            self._lines.check_open(problem)
            raise
        finally:
            self._lines.give_back(line)


class _UnaryStream:
    """A method with many answers."""

    def __init__(self, lines: Lines[grpc.Channel], on: Callable[[grpc.Channel], Any]) -> None:
        self._lines = lines
        self._on = on

    def __call__(
        self, request: Message, timeout: float | None = None, metadata: Any = None, **others: Any
    ) -> Stream[Any]:
        sent = self._lines.metadata(metadata)
        _close_idle(self._lines)
        line, method = self._lines.take(self._on)
        try:
            call = method(request, timeout, sent, **others)
        except ValueError as problem:  # gRPC's word for a channel that was closed just now
            self._lines.give_back(line)
            self._lines.check_open(problem)
            raise
        if not call.add_callback(lambda: self._lines.give_back(line)):
            self._lines.give_back(line)
        return Stream(call)


class _CallingChannel(grpc.Channel):
    """What the stubs are made on: each call goes over the channel as it is then."""

    def __init__(self, lines: Lines[grpc.Channel]) -> None:
        self._lines = lines

    def unary_unary(self, *args: Any, **named: Any) -> Any:
        return _UnaryUnary(self._lines, lambda channel: channel.unary_unary(*args, **named))

    def unary_stream(self, *args: Any, **named: Any) -> Any:
        return _UnaryStream(self._lines, lambda channel: channel.unary_stream(*args, **named))

    def stream_unary(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_NO_REQUEST_STREAMS)

    def stream_stream(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_NO_REQUEST_STREAMS)

    def subscribe(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_NOT_ONE_CHANNEL)

    def unsubscribe(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_NOT_ONE_CHANNEL)

    def close(self) -> NoReturn:
        raise NotImplementedError(_NOT_ONE_CHANNEL)


_NO_REQUEST_STREAMS = "No method of kubevend takes many requests."
_NOT_ONE_CHANNEL = "The channel behind a client is made anew when certificates change."

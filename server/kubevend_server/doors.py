"""The doors of the server: opened together, and closed together.

Each is a gRPC server of its own (`listeners.py` says why), with the same services, health and reflection behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc import aio

from kubevend_server.behaviors import behavior, stream_behavior
from kubevend_server.calls import Interceptor, Method
from kubevend_server.health import Health, add_health, add_reflection
from kubevend_server.listeners import Listener
from kubevend_server.policy.access import DECIDED_AS, actions
from kubevend_server.services import Service
from kubevend_server.sockets import UnixSocket
from kubevend_server.streams import Streams

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Door:
    """Where calls come in, and how.

    Attributes:
        listener: what the calls' callers are told by.
        address: `host:port`, or a Unix socket.
        credentials: how a connection is secured; None for one in plain text.
    """

    listener: Listener
    address: str | UnixSocket
    credentials: grpc.ServerCredentials | None = None


class Doors:
    """All doors of the server."""

    def __init__(
        self,
        doors: Sequence[Door],
        services: Sequence[Service],
        interceptors: Sequence[Interceptor],
        health: Health,
        streams: Streams,
        options: Sequence[tuple[str, int]],
    ) -> None:
        """Take what is behind the doors. Nothing is open yet.

        Args:
            doors: the doors.
            services: what is served at each of them.
            interceptors: what every call passes through.
            health: what is told of it at each of them.
            streams: the open streams of them all.
            options: gRPC's, for each door.

        Raises:
            ValueError: a service has a method that the access policy's schema does not know.
        """
        self._doors = doors
        self._services = [(service, _methods(service)) for service in services]
        self._interceptors = interceptors
        self._options = options
        self._health = health
        self._streams = streams
        self._servers: list[aio.Server] = []

    async def open(self) -> list[int]:
        """Open them, once every address is taken.

        Returns:
            The port of each, in their order; 1 for a Unix socket.

        Raises:
            RuntimeError, ValueError, OSError: an address cannot be taken.
        """
        self._servers = [self._server(door) for door in self._doors]
        ports = [_take(server, door) for server, door in zip(self._servers, self._doors, strict=True)]
        for server in self._servers:
            await server.start()
        for door, port in zip(self._doors, ports, strict=True):
            _log.info(
                "listening",
                listener=door.listener.name,
                address=str(door.address),
                port=port,
                tls=bool(door.credentials),
            )
        return ports

    async def close(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, let what runs end, at the most for so many seconds, then close them."""
        await self._health.enter_graceful_shutdown()
        self._streams.close()
        await asyncio.gather(*(server.stop(drain_seconds) for server in self._servers))

    def _server(self, door: Door) -> aio.Server:
        server = aio.server(options=self._options)
        for service, methods in self._services:
            handlers = {method.name: self._handler(service, method, door.listener) for method in methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
        add_health(server, self._health)
        add_reflection(server, [service.name for service, _ in self._services])
        return server

    def _handler(self, service: Service, method: Method, listener: Listener) -> grpc.RpcMethodHandler[bytes, bytes]:
        if method.streams:
            opener = service.openers()[method.name]
            return grpc.stream_stream_rpc_method_handler(
                stream_behavior(method, opener, self._interceptors, self._streams, listener)
            )
        handler = service.handlers()[method.name]
        return grpc.stream_unary_rpc_method_handler(behavior(method, handler, self._interceptors, listener))


def _methods(service: Service) -> list[Method]:
    known, methods = actions(), []
    for method in descriptor_pool.Default().FindServiceByName(service.name).methods:
        if method.name not in known and method.name not in DECIDED_AS:
            raise ValueError(f"The access policy's schema does not know {method.full_name}, so nobody may call it.")
        request: type[Message] = message_factory.GetMessageClass(method.input_type)
        reads = method.name.startswith(("Get", "List", "Watch", "WhoAmI"))
        methods.append(Method(service.name, method.name, request, reads, method.server_streaming))
    return methods


def _take(server: aio.Server, door: Door) -> int:
    if isinstance(door.address, UnixSocket):
        with door.address.made_safely():
            return server.add_insecure_port(door.address.uri)
    if door.credentials is None:
        return server.add_insecure_port(door.address)
    return server.add_secure_port(door.address, door.credentials)

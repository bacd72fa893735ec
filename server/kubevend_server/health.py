"""Health (grpc.health.v1), with List, and reflection, over v1 and v1alpha: open to anyone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

POLICIES = "kubevend.policies"
"""The name under which health tells whether what is in the policy folder is in force."""

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


class Health(HealthServicer):
    """The health service of grpcio, and the List that it lacks (grpc issue 41991)."""

    async def List(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthListRequest, context: object
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        del request, context
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._server_status.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def tell_policies(self, in_force: bool) -> None:
        """Tell whether what is in the policy folder is in force. The server as a whole goes on SERVING either way."""
        response = health_pb2.HealthCheckResponse
        await self.set(POLICIES, response.SERVING if in_force else response.NOT_SERVING)


async def make_health(services: Sequence[str]) -> Health:
    """Health that is SERVING for the server as a whole, for each service, and for the policies."""
    health = Health()
    for name in (*services, POLICIES):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    return health


def add_health(server: aio.Server, health: Health) -> None:
    """Serve health."""
    health_pb2_grpc.add_HealthServicer_to_server(health, server)


def _described() -> DescriptorPool:
    """What reflection tells: the descriptor set, since generated code has lost the names that JSON gives to fields."""
    pool = DescriptorPool()
    described = resources.files("kubevend.v1").joinpath("kubevend.protoset").read_bytes()
    for file in FileDescriptorSet.FromString(described).file:
        pool.AddSerializedFile(file.SerializeToString())
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


class Reflection(ReflectionServicer):
    """The reflection service of grpcio, which finds methods too: by the file of their service."""

    def _file_containing_symbol(
        self, request: reflection_pb2.ServerReflectionRequest, fully_qualified_name: str
    ) -> reflection_pb2.ServerReflectionResponse:
        found = super()._file_containing_symbol(request, fully_qualified_name)
        service = fully_qualified_name.rpartition(".")[0]
        if not found.HasField("error_response") or not service:
            return found
        return super()._file_containing_symbol(request, service)


def add_reflection(server: aio.Server, services: Sequence[str]) -> None:
    """Serve reflection under both of its names: grpcio knows v1alpha only (grpc issue 38576); the two are alike."""
    shown = [*services, "grpc.health.v1.Health", _REFLECTION_V1, _REFLECTION_V1ALPHA]
    servicer = Reflection(shown, _described())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (_REFLECTION_V1, _REFLECTION_V1ALPHA):
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )

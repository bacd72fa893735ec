"""What gRPC itself holds connections to, before there is a call.

See `include/grpc/impl/channel_arg_names.h` of gRPC for its options.
"""

from __future__ import annotations

import resource

import structlog

from kubevend_server.settings.sections import LimitSettings

_log = structlog.get_logger()

_HANDSHAKE_SECONDS = 10
"""For TLS and the first frame of HTTP/2 together; gRPC's own default is 120."""
_AGE_GRACE_SECONDS = 60
"""For the calls of a connection that has reached its age. Then they are cut off: those too whose callers never read."""
_KEEPALIVE_SECONDS = 60
_KEEPALIVE_TIMEOUT_SECONDS = 20
_PING_SECONDS = 10
"""Who pings oftener, without a call, is told so and cut off; gRPC's own default, 300, cuts off careful clients."""
_PING_STRIKES = 2
_OWN_DESCRIPTORS = 256
"""The store, logs, connections to clusters, and what libraries keep open."""


def transport_options(limits: LimitSettings) -> tuple[tuple[str, int], ...]:
    """The options of each listener's gRPC server."""
    return (
        ("grpc.max_receive_message_length", limits.request_bytes),
        # gRPC refuses at random between the two where they differ.
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # Else calls count until their memory is freed, which is after the caller has the answer: gRPC would refuse the
        # next ones of callers who keep to the limit. Calls opened and reset are bounded by what may be pending.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.connection_idle_seconds)),
        ("grpc.max_connection_age_ms", _milliseconds(limits.connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(_AGE_GRACE_SECONDS)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(_HANDSHAKE_SECONDS)),
        ("grpc.keepalive_time_ms", _milliseconds(_KEEPALIVE_SECONDS)),
        ("grpc.keepalive_timeout_ms", _milliseconds(_KEEPALIVE_TIMEOUT_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(_PING_SECONDS)),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
        # Two servers on one port would share out the calls between them without a word.
        ("grpc.so_reuseport", 0),
    )


def make_room(connections: int) -> None:
    """Let the process have as many files open as it may have connections, as far as the system lets it."""
    needed = connections + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        _log.warning(
            "file_descriptors_few",
            limit=most,
            needed=needed,
            hint="raise the limit of open files (LimitNOFILE=, ulimit -n), or lower limits.connections",
        )


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)

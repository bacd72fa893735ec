"""Which limits cannot be, and what to put in their place."""

from __future__ import annotations

from collections.abc import Iterator

from kubevend_server.settings.sections import LimitSettings

_RATES = ("source", "source_failures", "caller", "role")
_LEAST = {
    "in_flight": 1,
    "in_flight_per_source": 1,
    "in_flight_per_caller": 1,
    "issuing_per_cluster": 1,
    "streams_per_caller": 1,
    "streams_per_connection": 1,
    "connections": 1,
    # The smallest that lets everything through that is allowed otherwise.
    "request_bytes": 1 << 14,
    "metadata_bytes": 1 << 13,
    "request_seconds": 0.1,
    "call_seconds": 1,
    "connection_idle_seconds": 1,
    "connection_age_seconds": 1,
}


def limit_faults(limits: LimitSettings) -> Iterator[str]:
    """What is wrong with them, each fault as a sentence."""
    for whose in _RATES:
        per_second, burst = getattr(limits, f"{whose}_per_second"), getattr(limits, f"{whose}_burst")
        if per_second < 0:
            yield f"limits.{whose}_per_second is {per_second:g}; it must be more than 0, or 0 for no limit."
        if burst < 1:
            yield f"limits.{whose}_burst is {burst}; it must be 1 or more: 0 would let nothing in, ever."
    for key, least in _LEAST.items():
        found = getattr(limits, key)
        if found < least:
            yield f"limits.{key} is {found:g}; it must be {least:g} or more."
    for key in ("in_flight_per_source", "in_flight_per_caller"):
        if getattr(limits, key) > limits.in_flight:
            yield f"limits.{key} is {getattr(limits, key)}, and limits.in_flight {limits.in_flight}: it cannot be more."

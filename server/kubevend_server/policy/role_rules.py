"""The rules that a role must keep as a whole, beyond those of its single fields."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.policy.terms import MINIMUM_TTL, Limits, Warning, seconds
from kubevend_server.roles import ANY, Role


def check_role(role: Role, limits: Limits) -> tuple[Warning, ...]:
    """Check a role that is to be written.

    Returns:
        What its owner should know although the role is accepted.

    Raises:
        InvalidArgument: the role contradicts itself; every fault is named, by field.
    """
    faults = list(_faults(role, limits))
    if faults:
        what = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
        raise InvalidArgument(
            "ROLE_INVALID", f"{role.name} cannot be: {what}.", metadata={"role": role.name}, violations=faults
        )
    return tuple(_above_server(role, limits))


def _faults(role: Role, limits: Limits) -> Iterator[Violation]:
    for field, allowed in (
        ("role.allowed_namespaces", role.allowed_namespaces),
        ("role.allowed_service_accounts", role.allowed_service_accounts),
    ):
        if ANY in allowed and len(allowed) > 1:
            yield Violation(field, "'*' stands for all and must stand alone")
    for audience in role.default_audiences:
        if audience not in role.allowed_audiences:
            yield Violation("role.default_audiences", f"{audience!r} is not in allowed_audiences")
    for audience in role.allowed_audiences:
        if audience in limits.reserved_audiences:
            yield Violation("role.allowed_audiences", f"{audience!r} is kubevend's own and is never issued")
    for field, ttl in (("role.ttl", role.ttl), ("role.max_ttl", role.max_ttl)):
        if ttl is not None and ttl < MINIMUM_TTL:
            yield Violation(field, f"{seconds(ttl)} is less than {seconds(MINIMUM_TTL)}, Kubernetes' floor for a token")
    if role.ttl is not None and role.max_ttl is not None and role.ttl > role.max_ttl:
        yield Violation("role.ttl", f"{seconds(role.ttl)} is more than max_ttl, {seconds(role.max_ttl)}")


def _above_server(role: Role, limits: Limits) -> Iterator[Warning]:
    fields: tuple[tuple[str, timedelta | None], ...] = (("ttl", role.ttl), ("max_ttl", role.max_ttl))
    for field, ttl in fields:
        if ttl is not None and ttl > limits.max_ttl:
            yield Warning(
                "TTL_ABOVE_SERVER_MAX",
                f"{field} is {seconds(ttl)}, but this server's max_ttl is {seconds(limits.max_ttl)}, which "
                "holds in any case.",
                (("by", "the server's max_ttl"), ("from", seconds(ttl)), ("to", seconds(limits.max_ttl))),
            )

"""The rules that a role must keep as a whole, beyond those of its single fields."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.policy.lifetimes import seconds
from kubevend_server.policy.limits import MINIMUM_LEASE, Limits, floor_of
from kubevend_server.policy.name_template import template_fault
from kubevend_server.policy.rbac_rules import parse_rules
from kubevend_server.policy.selectors import annotation_faults, label_faults, selector_faults
from kubevend_server.roles import ANY, DEFAULT_NAME_TEMPLATE, Role
from kubevend_server.warning import Warning


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
    yield from _namespace_faults(role)
    yield from _credential_faults(role)
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
    floor = floor_of(role)
    whose = "the floor of a lease" if floor == MINIMUM_LEASE else "Kubernetes' floor for a token"
    for field, ttl in (("role.ttl", role.ttl), ("role.max_ttl", role.max_ttl)):
        if ttl is not None and ttl < floor:
            yield Violation(field, f"{seconds(ttl)} is less than {seconds(floor)}, {whose}")
    if role.ttl is not None and role.max_ttl is not None and role.ttl > role.max_ttl:
        yield Violation("role.ttl", f"{seconds(role.ttl)} is more than max_ttl, {seconds(role.max_ttl)}")


def _namespace_faults(role: Role) -> Iterator[Violation]:
    if not role.allowed_namespaces and role.allowed_namespace_selector is None:
        yield Violation(
            "role.allowed_namespaces",
            "what is left empty allows nothing: name 1 to 100 namespaces or '*' for all, or set "
            "allowed_namespace_selector",
        )
    if role.allowed_namespace_selector is not None:
        for fault in selector_faults(role.allowed_namespace_selector):
            yield Violation("role.allowed_namespace_selector", fault)


def _credential_faults(role: Role) -> Iterator[Violation]:
    """What is wrong with how a role comes to its credentials: it has exactly one way."""
    ways = {
        "allowed_service_accounts": bool(role.allowed_service_accounts),
        "kubernetes_role": role.kubernetes_role is not None,
        "generated_role": role.generated_role is not None,
    }
    if sum(ways.values()) != 1:
        given = " and ".join(way for way, is_given in ways.items() if is_given) or "none of them"
        yield Violation("role", f"it has exactly one of {', '.join(ways)}; given is {given}")
    if role.makes_accounts:
        yield from _made_faults(role)
        return
    for field, is_given in (
        ("cluster_wide_allowed", role.cluster_wide_allowed),
        ("name_template", role.name_template != DEFAULT_NAME_TEMPLATE),
        ("extra_labels", bool(role.extra_labels)),
        ("extra_annotations", bool(role.extra_annotations)),
    ):
        if is_given:
            yield Violation(
                f"role.{field}", "only for a role that makes ServiceAccounts (kubernetes_role, generated_role)"
            )


def _made_faults(role: Role) -> Iterator[Violation]:
    if role.revocation != "PER_LEASE":
        yield Violation("role.revocation", "PER_LEASE or left out: what is made for a lease goes with it")
    kind = (
        role.kubernetes_role.kind if role.kubernetes_role else role.generated_role.kind if role.generated_role else ""
    )
    if role.cluster_wide_allowed and kind != "ClusterRole":
        yield Violation("role.cluster_wide_allowed", "only with a ClusterRole: a Role holds in one namespace")
    if role.generated_role is not None:
        try:
            parse_rules(role.generated_role.rules, role.generated_role.kind)
        except ValueError as error:
            yield Violation("role.generated_role.rules", str(error))
    fault = template_fault(role.name_template)
    if fault:
        yield Violation("role.name_template", fault)
    for fault in label_faults(role.extra_labels):
        yield Violation("role.extra_labels", fault)
    for fault in annotation_faults(role.extra_annotations):
        yield Violation("role.extra_annotations", fault)


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

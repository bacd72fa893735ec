"""How long a lease lives: what is asked, what the role says, and who shortens it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from kubevend_server.errors import FailedPrecondition, InvalidArgument, Violation
from kubevend_server.policy.limits import MINIMUM_LEASE, Limits, floor_of
from kubevend_server.roles import Role
from kubevend_server.warning import Warning


def lifetime(
    role: Role, asked: timedelta | None, min_ttl: timedelta | None, limits: Limits
) -> tuple[timedelta, tuple[str, ...], tuple[Warning, ...]]:
    """How long a lease shall live.

    Args:
        role: the role.
        asked: what the request asks for; None where it leaves that to the role.
        min_ttl: the shortest life that the caller can use; None for any.
        limits: the server's own.

    Returns:
        The TTL, where it came from, and a warning for each cap that shortened it.

    Raises:
        InvalidArgument: it is shorter than can be, or `min_ttl` is more than what is asked.
        FailedPrecondition: it was shortened to less than `min_ttl`.
    """
    if asked is not None:
        ttl, rule = asked, "ttl: asked"
    elif role.ttl is not None:
        ttl, rule = role.ttl, f"ttl: of {role.name}"
    else:
        ttl, rule = limits.default_ttl, "ttl: the server's default_ttl"
    _check_floor(ttl, role)
    if asked is not None and min_ttl is not None and min_ttl > asked:
        raise InvalidArgument(
            "MIN_TTL_ABOVE_TTL",
            f"min_ttl is {seconds(min_ttl)}, more than ttl, {seconds(asked)}: lower the one or raise the other.",
            violations=[Violation("min_ttl", "at most ttl")],
        )
    rules, warnings = [rule], []
    for by, cap, reason in (
        (f"max_ttl of {role.name}", role.max_ttl, "TTL_CAPPED_BY_ROLE"),
        ("the server's max_ttl", limits.max_ttl, "TTL_CAPPED_BY_SERVER"),
    ):
        if cap is not None and ttl > cap:
            warnings.append(shortened(reason, by, ttl, cap))
            rules.append(f"ttl: shortened from {seconds(ttl)} to {seconds(cap)} by {by}")
            ttl = cap
    check_min_ttl(ttl, min_ttl, warnings)
    return ttl, tuple(rules), tuple(warnings)


def shortened(reason: str, by: str, before: timedelta, after: timedelta) -> Warning:
    """The warning that a TTL was shortened: by whom, from what, to what."""
    return Warning(
        reason,
        f"The TTL was shortened from {seconds(before)} to {seconds(after)} by {by}.",
        (("by", by), ("from", seconds(before)), ("to", seconds(after))),
    )


def check_min_ttl(got: timedelta, min_ttl: timedelta | None, shortened_by: Iterable[Warning]) -> None:
    """Refuse a life that is shorter than the caller can use.

    Raises:
        FailedPrecondition: `got` is less than `min_ttl`. The message names who shortened it.
    """
    if min_ttl is None or got >= min_ttl:
        return
    warnings = list(shortened_by)
    because = [warning.message for warning in warnings]
    lifted = " and ".join(_who_shortens(warning) for warning in warnings if _is_below(warning, min_ttl))
    todo = (
        f"Ask for a min_ttl of {seconds(got)} or less, or have {lifted} raised." if lifted else "Ask for a longer ttl."
    )
    raise FailedPrecondition(
        "MIN_TTL_NOT_MET",
        " ".join([f"min_ttl is {seconds(min_ttl)}, but the token would live {seconds(got)} only.", *because, todo]),
        metadata={"min_ttl": seconds(min_ttl), "ttl": seconds(got), "subject": "min_ttl"},
    )


def _is_below(warning: Warning, min_ttl: timedelta) -> bool:
    """Whether it was this that shortened a TTL to less than `min_ttl`."""
    to = dict(warning.metadata).get("to")
    return to is not None and timedelta(seconds=float(to.removesuffix("s"))) < min_ttl


def _who_shortens(warning: Warning) -> str:
    """What would have to be raised, by the name under which it is set."""
    by = dict(warning.metadata)["by"]
    if warning.reason == "TTL_CAPPED_BY_SERVER":
        return "the server's issuance.max_ttl_seconds"
    if warning.reason == "TTL_CAPPED_BY_CLUSTER":
        return f"{by} (--service-account-max-token-expiration of its API server)"
    return by


def _check_floor(ttl: timedelta, role: Role) -> None:
    floor = floor_of(role)
    if ttl >= floor:
        return
    if floor == MINIMUM_LEASE:
        why = f"a lease of {role.name} lives no shorter than {seconds(floor)}"
    else:
        why = (
            f"Kubernetes issues no token for less than {seconds(floor)} (a role whose revocation is PER_LEASE ends its "
            "leases earlier)"
        )
    raise InvalidArgument(
        "TTL_TOO_SHORT",
        f"ttl is {seconds(ttl)}, but {why}: ask for {seconds(floor)} or more.",
        metadata={"ttl": seconds(ttl), "minimum": seconds(floor)},
        violations=[Violation("ttl", f"at least {seconds(floor)}")],
    )


def seconds(duration: timedelta) -> str:
    """Write a duration as people and protobuf do: `3600s`."""
    whole, _, fraction = f"{duration.total_seconds():.6f}".partition(".")
    return f"{whole}.{fraction}".rstrip("0").rstrip(".") + "s"

"""Which leases a caller may get, told before any is looked at: by what policies ask about leases.

Most policies compare a lease's fields with texts, or with what is known of the caller, or look at the labels of its
role. Then all leases fall into few kinds, one of each is decided, and a list looks for those that the caller may get.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubevend_server.policy.entities import Labels

FIELDS = ("role", "config", "caller", "namespace", "service_account")

Kind = Mapping[str, str]
"""Leases whose fields have these values. Empty: all leases."""

ALL: tuple[Kind, ...] = ({},)

_MOST_DECIDED = 4096
_MOST_KINDS = 32

Entity = Mapping[str, Any]

Decide = Callable[[Kind, Labels], bool]
"""Whether the caller may get a lease with these fields, all of them given, whose role has these labels."""


@dataclass
class _Asked:
    """What policies ask about leases.

    Attributes:
        values: with what a field is compared; it is not there where it is not looked at.
        labels: whether the labels of a lease's role are looked at.
        anything: whether something else is asked, so that each lease must be decided by itself.
    """

    values: dict[str, set[str]] = field(default_factory=dict)
    labels: bool = False
    anything: bool = False


def kinds(policies: Iterable[Any], caller: Entity, roles: Mapping[str, Labels], decide: Decide) -> Sequence[Kind]:
    """The kinds of leases that a caller may get. All that it may get are of these kinds; not all of these kinds it may.

    Args:
        policies: those that can matter, as Cedar's JSON has them.
        caller: it, as an entity.
        roles: the labels of the roles that there are, by their names.
        decide: the access policy.

    Returns:
        At most 32 kinds; all leases, as one kind, where policies ask about more than can be told of kinds.
    """
    asked = _Asked()
    for policy in policies:
        if policy["resource"]["op"] not in ("All", "is") or "in" in policy["resource"]:
            asked.anything = True
        for condition in policy["conditions"]:
            _look(condition["body"], caller, asked)
    if asked.anything:
        return ALL
    other = _nobody(asked)
    values = {column: [*sorted(found), other] for column, found in asked.values.items()}
    if asked.labels:
        values["role"] = [*sorted({*roles, *asked.values.get("role", ())}), other]
    columns = [column for column in FIELDS if column in values]
    if math.prod(len(values[column]) for column in columns) > _MOST_DECIDED:
        return ALL

    decided = functools.cache(lambda told, labels: decide(dict(zip(FIELDS, told, strict=True)), labels))

    def allowed(chosen: Sequence[str]) -> bool:
        told = dict.fromkeys(FIELDS, other) | dict(zip(columns, chosen, strict=True))
        labels = roles.get(told["role"], ())
        if told["role"] not in asked.values.get("role", ()):
            # So that roles with the same labels are decided once.
            told["role"] = other
        return decided(tuple(told.values()), labels)

    found = [chosen for chosen in itertools.product(*(values[column] for column in columns)) if allowed(chosen)]
    return _in_few(found, columns, values, other)


def _in_few(
    found: Iterable[tuple[str, ...]], columns: Sequence[str], values: Mapping[str, Sequence[str]], other: str
) -> Sequence[Kind]:
    """Put kinds together that differ in a field that does not matter to them."""
    chosen: set[tuple[str | None, ...]] = set(found)
    for position, column in enumerate(columns):
        alike: dict[tuple[str | None, ...], set[str | None]] = {}
        for each in chosen:
            alike.setdefault((*each[:position], *each[position + 1 :]), set()).add(each[position])
        chosen = {
            (*rest[:position], value, *rest[position:])
            for rest, had in alike.items()
            for value in ({None} if len(had) == len(values[column]) else had)
        }
    # What is neither of the texts cannot be looked for: so all are, and each is decided.
    told = [
        {column: value for column, value in zip(columns, each, strict=True) if value not in (None, other)}
        for each in sorted(chosen, key=str)
    ]
    wide = [kind for kind in told if not any(each.items() < kind.items() for each in told)]
    distinct: list[Kind] = [kind for number, kind in enumerate(wide) if kind not in wide[:number]]
    return distinct if len(distinct) <= _MOST_KINDS else ALL


def _look(expression: Any, caller: Entity, asked: _Asked) -> None:
    """Note what an expression, or a part of one, asks about the lease."""
    if isinstance(expression, list):
        for each in expression:
            _look(each, caller, asked)
    elif isinstance(expression, dict):
        for operator, operands in expression.items():
            _look_into(operator, operands, caller, asked)


def _look_into(operator: str, operands: Any, caller: Entity, asked: _Asked) -> None:
    if operator == "Var":
        asked.anything |= operands == "resource"
    elif operator == "Record":
        _look(list(operands.values()), caller, asked)
    elif operator in ("hasTag", "getTag") and _is_lease(operands["left"]):
        asked.labels = True
        _look(operands["right"], caller, asked)
    elif operator != "Value" and not _is_understood(operator, operands, caller, asked):
        _look(operands, caller, asked)


def _is_understood(operator: str, operands: Any, caller: Entity, asked: _Asked) -> bool:
    """Whether nothing is to be looked at in an expression any more; what it compares is noted."""
    match operator:
        case "==" | "!=":
            left, right = operands["left"], operands["right"]
            return _compared(left, [right], caller, asked) or _compared(right, [left], caller, asked)
        case "contains" if members := operands["left"].get("Set"):
            return _compared(operands["right"], members, caller, asked)
        case "is" | "has":
            return _is_lease(operands["left"]) and "in" not in operands
    return False


def _compared(field_: Any, values: Sequence[Any], caller: Entity, asked: _Asked) -> bool:
    access = field_.get(".", {})
    texts = [_text(value, caller) for value in values]
    if not _is_lease(access.get("left", {})) or None in texts:
        return False
    asked.values.setdefault(access["attr"], set()).update(text for text in texts if text is not None)
    return True


def _text(expression: Any, caller: Entity) -> str | None:
    """A text that is known before any lease is: one that is written there, or an attribute or tag of the caller."""
    ((operator, operands),) = expression.items()
    value = None
    if operator == "Value":
        value = operands
    elif operator == "." and operands["left"] == {"Var": "principal"}:
        value = caller["attrs"].get(operands["attr"])
    elif operator == "getTag" and operands["left"] == {"Var": "principal"}:
        value = caller.get("tags", {}).get(operands["right"].get("Value"))
    return value if isinstance(value, str) else None


def _is_lease(expression: Any) -> bool:
    return bool(expression == {"Var": "resource"})


def _nobody(asked: _Asked) -> str:
    """A value that no lease has in any field, and with which no policy compares."""
    known = set().union(*asked.values.values())
    return next(spaces for number in itertools.count(1) if (spaces := " " * number) not in known)

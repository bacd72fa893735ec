"""What one part of a policy asks of a question, where it cannot err: its atoms.

Policies fit the schema, so they ask for no attribute and no tag that may lack. What can err in them all the same is
little: numbers that overflow, entities that are named and not known, and functions of extensions. See
https://docs.cedarpolicy.com/policies/validation.html; the form is https://docs.cedarpolicy.com/policies/json-format.html.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from kubevend_server.policy.questions import ANCESTORS, ATTRIBUTES, TAGS, TYPE, Key, Path, key

Kind = Literal["equals", "member", "within", "begins", "ends", "number", "moment", "network"]

Threshold = tuple[int | str, bool]
"""What a value is at least: a number or a moment, and whether it must be more than that."""

Network = tuple[int, int, int]
"""The version, the length of the prefix, and the prefix."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Atom:
    """One thing that is asked of one value.

    Attributes:
        path: of which value.
        kind: what is asked: whether it equals one of `values`; has one as a member; has no members but these; begins or
            ends with one; is at least one, of numbers or of moments; is an address in one, of networks.
        values: with what it is compared. Keys; texts to begin and end with; thresholds, networks.
        positive: whether that must be so, or must not.
    """

    path: Path
    kind: Kind
    values: frozenset[Any]
    positive: bool = True


Clause = frozenset[Atom]
"""Atoms of which one must hold. What needs one of none never matters."""

Clauses = tuple[Clause, ...]

_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?", re.ASCII)
_ADDRESS = re.compile(r"[0-9a-fA-F:.]+(/\d+)?", re.ASCII)


def one(path: Path, kind: Kind, values: Iterable[Any]) -> Clause:
    """The clause of a single atom."""
    return frozenset({Atom(path, kind, frozenset(values))})


def is_entity(path: Path, entity: Json) -> Clauses:
    """That a value is this entity. Of a resource sometimes the type alone is known, so it is asked for by itself."""
    same = one(path, "equals", [key({"__entity": entity})])
    return (one((*path, TYPE), "equals", [key(entity["type"])]), same) if path == ("resource",) else (same,)


def reader(operator: str) -> Callable[[Any], Clauses | None]:
    """What reads an operator's operands: into clauses all of which hold just where the expression is true, or None."""
    return _READERS.get(operator, lambda _: None)


def pattern(operands: Json) -> tuple[Clauses, bool]:
    """What `like` needs, and whether that is all that it asks."""
    path, pieces = _path(operands["left"]), [""]
    for piece in operands["pattern"]:
        if piece == "Wildcard":
            pieces.append("")
        else:
            pieces[-1] += piece["Literal"]
    if path is None:
        return (), False
    if len(pieces) == 1:
        return (one(path, "equals", [key(pieces[0])]),), True
    ends: tuple[tuple[Kind, str], ...] = (("begins", pieces[0]), ("ends", pieces[-1]))
    told = tuple(one(path, kind, [text]) for kind, text in ends if text)
    return told, len(told) == 1 and not any(pieces[1:-1])


_PARTS = ("left", "right", "arg", "in", "if", "then", "else")
_TOTAL = frozenset(
    {"!", "&&", "||", "==", "!=", "<", "<=", ">", ">=", "in", "is", "has", "hasTag", "like", "if-then-else"}
    | {"contains", "containsAll", "containsAny", "isEmpty"}
)


def cannot_err(expression: Json) -> bool:
    """Whether an expression of a policy that fits the schema gives a value, whatever the question."""
    ((operator, operands),) = expression.items()
    if operator in (".", "getTag"):
        # Other entities than those of the question need not be there.
        return _path(expression) is not None
    if operator in ("Set", "isInRange"):
        return all(map(cannot_err, operands))
    if operator in ("ip", "datetime"):
        # The check against the schema has read it.
        return all("Value" in operand for operand in operands)
    if operator in _TOTAL:
        return all(cannot_err(operands[part]) for part in _PARTS if part in operands)
    return operator in ("Value", "Var")


def _path(expression: Json) -> Path | None:
    ((operator, operands),) = expression.items()
    if operator == "Var":
        return (operands,) if operands in ("principal", "resource", "context") else None
    step = ""
    if operator == ".":
        step = operands["attr"]
    elif operator == "getTag":
        step = operands["right"].get("Value")
    left = _path(operands["left"]) if operator in (".", "getTag") and isinstance(step, str) else None
    return (*left, ("attr" if operator == "." else "tag", step)) if left is not None else None


def _told(path: Path | None, kind: Kind, values: Iterable[Any] | None) -> Clauses | None:
    return (one(path, kind, values),) if path is not None and values is not None else None


def _true(path: Path) -> Clauses:
    return (one(path, "equals", [key(True)]),)


def _literals(expression: Json) -> frozenset[Key] | None:
    """The members of a set that is written there."""
    found = [key(member.get("Value")) for member in expression.get("Set", ())]
    known = frozenset(member for member in found if member is not None)
    return known if found and None not in found else None


def _equal(operands: Json) -> Clauses | None:
    left, right = operands["left"], operands["right"]
    if "Value" in left:
        left, right = right, left
    path, other, literal = _path(left), _path(right), key(right.get("Value"))
    if path is None:
        return None
    if other is not None:
        return _true(("same", path, other))
    if literal is None:
        return None
    return is_entity(path, right["Value"]["__entity"]) if literal[0] == "entity" else _told(path, "equals", [literal])


def _contains(operands: Json) -> Clauses | None:
    left, right = operands["left"], operands["right"]
    path, other, literal = _path(left), _path(right), key(right.get("Value"))
    if path is None:
        return _told(other, "equals", _literals(left))
    if other is not None:
        return _true(("contains", path, other))
    return _told(path, "member", [literal]) if literal is not None else None


def _contains_any(operands: Json) -> Clauses | None:
    left, right = operands["left"], operands["right"]
    return _told(_path(left), "member", _literals(right)) or _told(_path(right), "member", _literals(left))


def _contains_all(operands: Json) -> Clauses | None:
    left, right = operands["left"], operands["right"]
    path, members = _path(left), _literals(right)
    if path is not None and members is not None:
        return tuple(one(path, "member", [member]) for member in sorted(members, key=repr))
    return _told(_path(right), "within", _literals(left))


def _is(operands: Json) -> Clauses | None:
    path = _path(operands["left"])
    return (one((*path, TYPE), "equals", [key(operands["entity_type"])]),) if path is not None else None


def _in(operands: Json) -> Clauses | None:
    path, right = _path(operands["left"]), operands["right"]
    literal = key(right.get("Value"))
    return _told((*path, ANCESTORS), "member", [literal] if literal else _literals(right)) if path is not None else None


def _has(operands: Json) -> Clauses | None:
    path = _path(operands["left"])
    return (
        _told((*path, ATTRIBUTES), "member", [key(operands["attr"])])
        if path is not None and "attr" in operands
        else None
    )


def _has_tag(operands: Json) -> Clauses | None:
    path, name = _path(operands["left"]), key(operands["right"].get("Value"))
    return _told((*path, TAGS), "member", [name]) if path is not None and name is not None else None


def _attribute(operands: Json) -> Clauses | None:
    """A truth value by itself, as `context.cluster_wide`."""
    path = _path({".": operands})
    return _true(path) if path is not None else None


def _in_range(operands: Any) -> Clauses | None:
    path, written = _path(operands[0]), _written("ip", operands[1])
    if path is None or not _ADDRESS.fullmatch(written):
        return None
    try:
        network = ipaddress.ip_network(written, strict=False)
    except ValueError:
        return None
    length = network.prefixlen
    prefix = int(network.network_address) >> (network.max_prefixlen - length)
    return _told(path, "network", [(network.version, length, prefix)])


def _written(function: str, expression: Json) -> str:
    """The text of which an extension's value is made, where it is written there."""
    arguments = expression.get(function)
    return str(arguments[0].get("Value", "")) if arguments else ""


def _compare(operator: str, operands: Json) -> Clauses | None:
    """A number or a moment on one side, what is asked about on the other."""
    left, right = operands["left"], operands["right"]
    if _path(left) is None:
        left, right, operator = right, left, _FLIPPED[operator]
    path, bound = _path(left), _bound(right)
    if path is None or bound is None:
        return None
    kind, value = bound
    # Below a threshold is not at least the threshold.
    threshold: Threshold = (value, operator in (">", "<="))
    return (frozenset({Atom(path, kind, frozenset({threshold}), operator in (">", ">="))}),)


def _bound(expression: Json) -> tuple[Kind, int | str] | None:
    value = expression.get("Value")
    if type(value) is int:
        return "number", value
    moment = _written("datetime", expression)
    if not _DATE.fullmatch(moment):
        return None
    # Of one form, so that texts are in the order of time.
    return "moment", moment if "T" in moment else f"{moment}T00:00:00Z"


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

_READERS: Mapping[str, Callable[[Any], Clauses | None]] = {
    "==": _equal,
    "contains": _contains,
    "containsAny": _contains_any,
    "containsAll": _contains_all,
    "is": _is,
    "in": _in,
    "has": _has,
    "hasTag": _has_tag,
    ".": _attribute,
    "isInRange": _in_range,
    **{operator: partial(_compare, operator) for operator in _FLIPPED},
}

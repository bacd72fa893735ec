"""What must hold of a question before a policy can matter to it: else it neither permits nor forbids nor errs.

A policy's scope and conditions are evaluated one after the other, up to the first that is false or errs. So what a part
asks for is needed as long as nothing before it can err.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kubevend_server.policy.atoms import Clause, Clauses, cannot_err, is_entity, one, pattern, reader
from kubevend_server.policy.questions import ANCESTORS, TYPE, key

_MOST_DISTRIBUTED = 4
_NEVER: Clauses = (frozenset(),)

Json = Mapping[str, Any]


def needs(policy: Json) -> Iterator[Clause]:
    """What must hold, all of it, for a policy, as Cedar's JSON has it, to matter. The policy fits the schema."""
    for variable in ("principal", "action", "resource"):
        yield from _scope(variable, policy[variable])
    for condition in policy["conditions"]:
        yield from _needed(condition["body"], condition["kind"] == "when")
        if not cannot_err(condition["body"]):
            return


def _scope(variable: str, scope: Json) -> Clauses:
    operator = scope["op"]
    if operator == "is":
        inside = _among(variable, [scope["in"]["entity"]]) if "in" in scope else ()
        return (one((variable, TYPE), "equals", [key(scope["entity_type"])]), *inside)
    if operator == "==":
        return is_entity((variable,), scope["entity"])
    if operator == "in":
        return _among(variable, scope["entities"] if "entities" in scope else [scope["entity"]])
    return ()


def _among(variable: str, entities: Sequence[Json]) -> Clauses:
    found = one((variable, ANCESTORS), "member", [key({"__entity": entity}) for entity in entities])
    # Resources are in nothing but themselves.
    typed = one((variable, TYPE), "equals", [key(entity["type"]) for entity in entities])
    return (typed, found) if variable == "resource" else (found,)


def _needed(expression: Json, wanted: bool) -> Clauses:
    """What must hold for an expression to be as wanted, or to err. Nothing where that is not understood."""
    ((operator, operands),) = expression.items()
    if operator in _WITHIN:
        return _WITHIN[operator](operands, wanted)
    if operator == "Value":
        return () if operands == wanted else _NEVER
    told = reader(operator)(operands)
    return _as_wanted(told, wanted) if told is not None else ()


def _not(operands: Json, wanted: bool) -> Clauses:
    return _needed(operands["arg"], not wanted)


def _differ(operands: Json, wanted: bool) -> Clauses:
    return _needed({"==": operands}, not wanted)


def _and(operands: Json, wanted: bool) -> Clauses:
    return _joined(operands["left"], operands["right"], wanted, together=wanted)


def _or(operands: Json, wanted: bool) -> Clauses:
    return _joined(operands["left"], operands["right"], wanted, together=not wanted)


def _is(operands: Json, wanted: bool) -> Clauses:
    if "in" not in operands:
        told = reader("is")(operands)
        return _as_wanted(told, wanted) if told is not None else ()
    typed = {"is": {"left": operands["left"], "entity_type": operands["entity_type"]}}
    inside = {"in": {"left": operands["left"], "right": operands["in"]}}
    return _and({"left": typed, "right": inside}, wanted)


def _joined(left: Json, right: Json, wanted: bool, *, together: bool) -> Clauses:
    """What two expressions need both of which, or one of which, must be as wanted."""
    if not together:
        return _either(_needed(left, wanted), _needed(right, wanted))
    # What is on the right is not looked at where the left errs.
    return (*_needed(left, wanted), *(_needed(right, wanted) if cannot_err(left) else ()))


def _if(operands: Json, wanted: bool) -> Clauses:
    condition = operands["if"]
    total = cannot_err(condition)
    left = (*_needed(condition, True), *(_needed(operands["then"], wanted) if total else ()))
    right = (*_needed(condition, False), *(_needed(operands["else"], wanted) if total else ()))
    return _either(left, right)


def _either(left: Clauses, right: Clauses) -> Clauses:
    """What one of two expressions needs. Not all of it where that is much: what is left out excludes less."""
    pairs = itertools.product(left[:_MOST_DISTRIBUTED], right[:_MOST_DISTRIBUTED])
    return tuple(first | second for first, second in pairs)


def _like(operands: Json, wanted: bool) -> Clauses:
    told, exact = pattern(operands)
    return _as_wanted(told, wanted) if wanted or exact else ()


def _as_wanted(told: Clauses, wanted: bool) -> Clauses:
    """The clauses of an expression that is true just where all of them hold; or those of its contrary."""
    if wanted:
        return told
    return (frozenset(replace(atom, positive=not atom.positive) for clause in told for atom in clause),)


_WITHIN: Mapping[str, Callable[[Json, bool], Clauses]] = {
    "!": _not,
    "!=": _differ,
    "&&": _and,
    "||": _or,
    "is": _is,
    "if-then-else": _if,
    "like": _like,
}

"""Which policies can matter to a question: Cedar looks at each that it is given, so it is given few of many.

Of each policy it is known what must hold before Cedar evaluates anything of it that could err: its scope, and the first
conditions of its `when`. Where that does not hold the policy neither permits nor forbids nor errs, so that it makes no
difference whether Cedar sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubevend_server.policy.parsing import GROUPS_OF_ACTIONS

Fact = tuple[str, ...]
"""Something that holds of a question, as `("principal", "==", type, id)` or `("resource", "tag", key, value)`."""

Clause = frozenset[Fact]
"""Facts of which one must hold."""

Operands = Mapping[str, Any]

_VARIABLES = ("principal", "resource", "context")


class Candidates:
    """Finds the policies that can matter to a question."""

    def __init__(self, policies: Mapping[str, Any]) -> None:
        """Take policies as Cedar's JSON has them, by their ids. They fit the schema."""
        self._needs = {identity: tuple(needs(policy)) for identity, policy in policies.items()}
        used = Counter(fact for clauses in self._needs.values() for clause in clauses for fact in clause)
        self._always: list[str] = []
        self._by_fact: dict[Fact, list[str]] = {}
        for identity, clauses in self._needs.items():
            if not clauses:
                self._always.append(identity)
                continue
            # What the fewest policies ask for tells the most.
            for fact in min(clauses, key=lambda clause: sum(used[fact] for fact in clause)):
                self._by_fact.setdefault(fact, []).append(identity)

    def find(self, facts: frozenset[Fact]) -> tuple[str, ...]:
        """The ids of the policies that can matter where these facts hold, and no others of the kinds told here."""
        found = set(self._always)
        for fact in facts & self._by_fact.keys():
            found.update(
                identity
                for identity in self._by_fact[fact]
                if not any(clause.isdisjoint(facts) for clause in self._needs[identity])
            )
        return tuple(sorted(found))

    def possible(self, facts: frozenset[Fact], kind: str) -> tuple[str, ...]:
        """The ids of the policies that can matter to a resource of a kind of which nothing else is known.

        Args:
            facts: those of the caller, the action and the context.
            kind: the resource's type.
        """
        known = {*facts, ("resource", "is", kind)}
        return tuple(
            identity
            for identity, clauses in self._needs.items()
            if all(any(fact in known or _is_open(fact, kind) for fact in clause) for clause in clauses)
        )


def _is_open(fact: Fact, kind: str) -> bool:
    """Whether a fact may or may not hold of a resource of a kind."""
    variable, operator, named, *_ = fact
    return variable == "resource" and operator != "is" and (operator not in ("==", "in") or named == kind)


def facts_of(request: Mapping[str, Any], entities: Iterable[Mapping[str, Any]]) -> frozenset[Fact]:
    """The facts of a question, as Cedar's JSON has it: what policies may need."""
    facts: set[Fact] = set()
    principal, resource = request["principal"], request["resource"]
    for entity in entities:
        if entity["uid"] == principal:
            facts.update(_facts_of_entity("principal", entity))
        if entity["uid"] == resource:
            facts.update(_facts_of_entity("resource", entity))
    action = request["action"]["id"]
    for name in (action, *GROUPS_OF_ACTIONS.get(action, ())):
        facts.add(("action", "in", "Action", name))
    facts.add(("action", "==", "Action", action))
    for name, value in request["context"].items():
        facts.update(_facts_of_value("context", "attr", "has", name, value))
    return frozenset(facts)


def _facts_of_entity(variable: str, entity: Mapping[str, Any]) -> Iterator[Fact]:
    uid = entity["uid"]
    yield variable, "is", uid["type"]
    yield variable, "==", uid["type"], uid["id"]
    for parent in (uid, *entity["parents"]):
        yield variable, "in", parent["type"], parent["id"]
    for name, value in entity["attrs"].items():
        yield from _facts_of_value(variable, "attr", "has", name, value)
    for name, value in entity.get("tags", {}).items():
        yield from _facts_of_value(variable, "tag", "has tag", name, value)


def _facts_of_value(variable: str, kind: str, has: str, name: str, value: object) -> Iterator[Fact]:
    yield variable, has, name
    if isinstance(value, str):
        yield variable, kind, name, value


def needs(policy: Mapping[str, Any]) -> Iterator[Clause]:
    """What must hold before anything of a policy is evaluated that could err."""
    for variable in ("principal", "action", "resource"):
        yield from _scope(variable, policy[variable])
    for condition in policy["conditions"]:
        if condition["kind"] != "when":
            return
        for part in _parts(condition["body"]):
            clause = _clause(part)
            if clause is None:
                return
            yield clause


def _scope(variable: str, scope: Mapping[str, Any]) -> Iterator[Clause]:
    operator = scope["op"]
    if operator == "is":
        yield frozenset({(variable, "is", scope["entity_type"])})
        if "in" in scope:
            yield _entities(variable, "in", [scope["in"]["entity"]])
    elif operator in ("==", "in"):
        yield _entities(variable, operator, scope["entities"] if "entities" in scope else [scope["entity"]])


def _entities(variable: str, operator: str, entities: Iterable[Mapping[str, str]]) -> Clause:
    return frozenset((variable, operator, entity["type"], entity["id"]) for entity in entities)


def _parts(expression: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a conjunction, in the order in which Cedar evaluates them: it stops at the first that is false."""
    if "&&" in expression:
        yield from _parts(expression["&&"]["left"])
        yield from _parts(expression["&&"]["right"])
    else:
        yield expression


def _clause(expression: Mapping[str, Any]) -> Clause | None:
    """The facts of which one must hold where an expression is true; None where it could err, or is not understood."""
    ((operator, operands),) = expression.items()
    read = _READERS.get(operator)
    return read(operands) if read is not None else None


def _equals(operands: Operands) -> Clause | None:
    left, right = operands["left"], operands["right"]
    return _equal(left, right) or _equal(right, left)


def _contains(operands: Operands) -> Clause | None:
    members = operands["left"].get("Set")
    return _any_of([_equal(operands["right"], member) for member in members]) if members else None


def _or(operands: Operands) -> Clause | None:
    return _any_of([_clause(operands["left"]), _clause(operands["right"])])


def _is(operands: Operands) -> Clause | None:
    variable = _variable(operands["left"])
    return frozenset({(variable, "is", operands["entity_type"])}) if variable and "in" not in operands else None


def _in(operands: Operands) -> Clause | None:
    variable, values = _variable(operands["left"]), operands["right"].get("Set", [operands["right"]])
    named = [each.get("Value") for each in values]
    if not variable or not all(isinstance(value, dict) and "__entity" in value for value in named):
        return None
    return _entities(variable, "in", [value["__entity"] for value in named])


def _has(operands: Operands) -> Clause | None:
    variable = _variable(operands["left"])
    return frozenset({(variable, "has", operands["attr"])}) if variable and "attr" in operands else None


def _has_tag(operands: Operands) -> Clause | None:
    variable, key = _variable(operands["left"]), operands["right"].get("Value")
    return frozenset({(variable, "has tag", key)}) if variable and isinstance(key, str) else None


_READERS: Mapping[str, Callable[[Operands], Clause | None]] = {
    "==": _equals,
    "contains": _contains,
    "||": _or,
    "is": _is,
    "in": _in,
    # A policy that fits the schema asks for nothing that may lack without these.
    "has": _has,
    "hasTag": _has_tag,
}


def _any_of(clauses: Sequence[Clause | None]) -> Clause | None:
    """What one of several expressions needs, each of which is evaluated where those before it are false."""
    known = [clause for clause in clauses if clause is not None]
    return frozenset().union(*known) if known and len(known) == len(clauses) else None


def _equal(left: Mapping[str, Any], right: Mapping[str, Any]) -> Clause | None:
    """An attribute or a tag of a variable, or a variable itself, which equals a literal."""
    literal = right.get("Value")
    if isinstance(literal, dict) and "__entity" in literal and (variable := _variable(left)):
        return _entities(variable, "==", [literal["__entity"]])
    if not isinstance(literal, str):
        return None
    access = left.get(".")
    if access is not None and (variable := _variable(access["left"])):
        return frozenset({(variable, "attr", access["attr"], literal)})
    access = left.get("getTag")
    if access is not None and (variable := _variable(access["left"])) and isinstance(access["right"].get("Value"), str):
        return frozenset({(variable, "tag", access["right"]["Value"], literal)})
    return None


def _variable(expression: Mapping[str, Any]) -> str:
    variable = expression.get("Var", "")
    return variable if variable in _VARIABLES else ""

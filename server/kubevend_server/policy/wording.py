"""Policies in words, from the JSON that Cedar makes of them (https://docs.cedarpolicy.com/policies/json-format.html)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cedarpy

Json = Mapping[str, Any]

_ANYTHING: Json = {"op": "All"}
# Cedar puts each operand in parentheses. A name alone needs none, unless a function's name stands before it.
_NEEDLESS = re.compile(r'"(?:\\.|[^"\\])*"|(?<![\w)])\(([\w.]+)\)')


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a policy that must hold for it to apply: of its scope, or one of the conditions joined by `&&`.

    Attributes:
        kind: which of the scope's, or which kind of condition.
        body: as Cedar's JSON has it.
    """

    kind: Literal["principal", "action", "resource", "when", "unless"]
    body: Json

    @property
    def in_scope(self) -> bool:
        """Whether it is of the scope."""
        return self.kind not in ("when", "unless")

    @property
    def text(self) -> str:
        """As one would write it in Cedar."""
        if self.in_scope:
            return _scope_text(self.kind, self.body)
        written = cedarpy.policies_from_json_str(policy_set({"one": self.alone()}))
        condition = written.partition("{")[2].rpartition("}")[0].strip()
        return f"{self.kind} {{ {_NEEDLESS.sub(lambda found: found[1] or found[0], condition)} }}"

    def alone(self, *, turned: bool = False) -> Json:
        """A permit that applies where this part holds, and nothing else matters; `turned`, where it does not."""
        policy: dict[str, Any] = {"effect": "permit", "conditions": []}
        policy |= {"principal": _ANYTHING, "action": _ANYTHING, "resource": _ANYTHING}
        if self.in_scope:
            return {**policy, self.kind: self.body}
        kinds = ("when", "unless") if not turned else ("unless", "when")
        return {**policy, "conditions": [{"kind": kinds[self.kind == "unless"], "body": self.body}]}

    def asks_for(self, variable: str) -> bool:
        """Whether it speaks of a variable: principal, action, resource, context."""
        return self.body != _ANYTHING if self.kind == variable else variable in set(_variables(self.body))


def parts(policy: Json) -> list[Part]:
    """All parts of a policy, those of its scope first."""
    found = [Part("principal", policy["principal"]), Part("action", policy["action"])]
    found.append(Part("resource", policy["resource"]))
    for condition in policy["conditions"]:
        joint = "&&" if condition["kind"] == "when" else "||"
        found.extend(Part(condition["kind"], operand) for operand in _operands(condition["body"], joint))
    return found


def policy_set(policies: Mapping[str, Json]) -> str:
    """Policies, by their ids, as one JSON text that Cedar takes."""
    return json.dumps({"templates": {}, "templateLinks": [], "staticPolicies": policies})


def entities(policy: Any) -> Iterator[tuple[str, str]]:
    """The entities that a policy names: type and id."""
    if isinstance(policy, dict):
        if isinstance(policy.get("type"), str) and isinstance(policy.get("id"), str):
            yield policy["type"], policy["id"]
        for value in policy.values():
            yield from entities(value)
    elif isinstance(policy, list):
        for value in policy:
            yield from entities(value)


def attributes(body: Any) -> Iterator[tuple[str, str, str]]:
    """What an expression looks at: of what ("principal", "context.proposed"), "attribute" or "tag", and its name."""
    if isinstance(body, dict):
        for operator, kind in ((".", "attribute"), ("getTag", "tag"), ("has", "attribute"), ("hasTag", "tag")):
            found = body.get(operator)
            if isinstance(found, dict) and (variable := _variable(found["left"])):
                name = found.get("attr") or found.get("right", {}).get("Value")
                if isinstance(name, str) and (variable, name) != ("context", "proposed"):
                    yield variable, kind, name
        for value in body.values():
            yield from attributes(value)
    elif isinstance(body, list):
        for value in body:
            yield from attributes(value)


def _variable(body: Json) -> str:
    """What an expression is, if it is a variable or the role that a call proposes; else empty."""
    match body:
        case {"Var": str(name)}:
            return name
        case {".": {"left": {"Var": "context"}, "attr": "proposed"}}:
            return "context.proposed"
    return ""


def _operands(body: Json, joint: str) -> Iterator[Json]:
    if set(body) == {joint}:
        yield from _operands(body[joint]["left"], joint)
        yield from _operands(body[joint]["right"], joint)
    else:
        yield body


def _variables(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        if isinstance(body.get("Var"), str):
            yield body["Var"]
        for value in body.values():
            yield from _variables(value)
    elif isinstance(body, list):
        for value in body:
            yield from _variables(value)


def _scope_text(variable: str, scope: Json) -> str:
    match scope:
        case {"op": "is", "entity_type": kind, "in": {"entity": entity}}:
            return f"{variable} is {kind} in {_uid(entity)}"
        case {"op": "is", "entity_type": kind}:
            return f"{variable} is {kind}"
        case {"op": operator, "entity": entity}:
            return f"{variable} {operator} {_uid(entity)}"
        case {"op": operator, "entities": several}:
            return f"{variable} {operator} [{', '.join(map(_uid, several))}]"
    return f"any {variable}"


def _uid(entity: Json) -> str:
    return f"{entity['type']}::{json.dumps(entity['id'], ensure_ascii=False)}"

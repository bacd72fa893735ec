"""What is asked of the access policy, as a place in which values can be looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubevend_server.policy.parsing import GROUPS_OF_ACTIONS

Path = tuple[Any, ...]
"""Where a value is in a question: a variable, and the steps from there, as `("resource", ("tag", "team"))`. What is
asked of two values, which is true or false, has a path too: `("same", path, path)`, `("contains", path, path)`."""

Key = tuple[Any, ...]
"""A value that is equal to another just where Cedar says so."""

TYPE, ANCESTORS, ATTRIBUTES, TAGS = ("type",), ("ancestors",), ("attributes",), ("tags",)
"""Last steps of a path: an entity's type; itself and what it is in; the names of what it has."""

UNKNOWN = object()
"""What is not there, or not known."""


def key(value: object) -> Key | None:
    """A text, a number, a truth value or an entity, to compare by; None for what is none of these."""
    if isinstance(value, str | int):
        # True is 1 in Python, but not in Cedar.
        return type(value).__name__, value
    if isinstance(value, Mapping) and "__entity" in value:
        return "entity", value["__entity"]["type"], value["__entity"]["id"]
    return None


class Question:
    """A question in Cedar's JSON."""

    def __init__(
        self, request: Mapping[str, Any], entities: Iterable[Mapping[str, Any]], *, any_resource: bool = False
    ) -> None:
        """Take a request and the entities that it is about.

        Args:
            request: as Cedar's JSON has it.
            entities: likewise.
            any_resource: whether of the resource nothing but its type is known.
        """
        self._variables = {name: {"__entity": request[name]} for name in ("principal", "action", "resource")}
        self._variables["context"] = request["context"]
        self._entities = {(each["uid"]["type"], each["uid"]["id"]): each for each in entities}
        action = request["action"]
        groups = [{"type": "Action", "id": name} for name in GROUPS_OF_ACTIONS.get(action["id"], ())]
        self._entities[action["type"], action["id"]] = {"uid": action, "attrs": {}, "parents": groups}
        self._kind = request["resource"]["type"] if any_resource else ""

    def value(self, path: Path) -> Any:
        """What is there, in Cedar's JSON; a list where the last step has many; or UNKNOWN."""
        if path[0] in ("same", "contains"):
            return self._of_two(*path)
        if path[0] == "resource" and self._kind:
            return self._kind if path[1:] == (TYPE,) else UNKNOWN
        found = self._variables[path[0]]
        for step in path[1:]:
            found = self._step(found, step)
            if found is UNKNOWN:
                return UNKNOWN
        return found

    def _of_two(self, what: str, one: Path, other: Path) -> Any:
        value, second = self.value(one), key(self.value(other))
        if what == "contains":
            return second in map(key, value) if isinstance(value, list) and second else UNKNOWN
        first = key(value)
        return first == second if first and second else UNKNOWN

    def _step(self, value: Any, step: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return UNKNOWN
        uid = value.get("__entity")
        if uid is None:
            return _of_record(value, step)
        if step == TYPE:
            return uid["type"]
        entity = self._entities.get((uid["type"], uid["id"]))
        return _of_entity(entity, step) if entity is not None else UNKNOWN


def _of_record(record: Mapping[str, Any], step: tuple[str, ...]) -> Any:
    return [*record] if step == ATTRIBUTES else record.get(step[-1], UNKNOWN)


def _of_entity(entity: Mapping[str, Any], step: tuple[str, ...]) -> Any:
    match step:
        case ("tag", name):
            return entity.get("tags", {}).get(name, UNKNOWN)
        case ("tags",):
            return [*entity.get("tags", {})]
        case ("ancestors",):
            return [{"__entity": each} for each in (entity["uid"], *entity["parents"])]
    return _of_record(entity["attrs"], step)

"""A question to the access policy as Cedar takes it, for what looks at policies one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubevend_server.callers import Caller
from kubevend_server.policy.access import Circumstances, Resource, question

_UNSET = "not set"


@dataclass(frozen=True, slots=True)
class Question:
    """Who may do what on what: `request` and `entities` as Cedar's JSON has them."""

    request: dict[str, Any]
    entities: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Question:
        """The question that `AccessPolicy.authorize` puts."""
        request, entities = question(caller, action, resource, circumstances)
        return cls(dict(request), tuple(entities))

    @property
    def groups(self) -> str:
        """The caller's groups, in words."""
        return ", ".join(parent["id"] for parent in self.entities[0]["parents"]) or "none"

    def value(self, variable: str, kind: str, name: str) -> str:
        """The value of an attribute or a tag, in words.

        Args:
            variable: whose: principal, resource, context or context.proposed.
            kind: attribute or tag.
            name: its name.
        """
        if variable == "context":
            return _written(self.request["context"].get(name, _UNSET))
        # So `access.question` has them: who, on what, and what it would be.
        found = self.entities[("principal", "resource", "context.proposed").index(variable)]
        return _written(found.get("tags" if kind == "tag" else "attrs", {}).get(name, _UNSET))


def _written(value: Any) -> str:
    match value:
        case str() if value == _UNSET:
            return _UNSET
        case {"__extn": {"arg": argument}}:
            return str(argument)
        case {"__entity": {"type": kind, "id": name}}:
            return f"{kind}::{json.dumps(name, ensure_ascii=False)}"
    return json.dumps(value, ensure_ascii=False)

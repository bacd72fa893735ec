"""Why the access policy decides as it does: which policies do, and which ones nearly would.

The decision is that of `Policies`. Why a policy does not apply is found out by Cedar too: each part of it is put to
the same question as a policy of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from kubevend_server.callers import BOOTSTRAP_ADMIN, Caller
from kubevend_server.policy import wording
from kubevend_server.policy.access import Decision
from kubevend_server.policy.checking import Policy
from kubevend_server.policy.entities import Circumstances, Resource
from kubevend_server.policy.parsing import SCHEMA
from kubevend_server.policy.policies import Policies
from kubevend_server.policy.question import Question

MOST_NEAR = 5
"""How many of the policies that nearly apply are told."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A part of a policy that does not hold: in Cedar, and what the values are that it looks at."""

    text: str
    in_scope: bool
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Near:
    """A permit that does not apply, and because of what; nothing where only a forbid stands in its way."""

    policy: Policy
    failed: tuple[Failed, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and why.

    Attributes:
        decision: what `Policies` says.
        decided: the policies that did.
        near: for a denial, the permits of this action, the nearest first, `MOST_NEAR` at the most.
        more: how many more there are.
    """

    decision: Decision
    decided: tuple[Policy, ...]
    near: tuple[Near, ...] = ()
    more: int = 0


class Explainer:
    """Explains what one set of policies decides."""

    def __init__(self, in_force: Policies, policies: Sequence[Policy]) -> None:
        """Take a set of policies, as it decides and as it was read."""
        self._in_force = in_force
        self._policies = {policy.id: policy for policy in policies}
        self._schema = cedarpy.Schema.from_str(SCHEMA)

    def decide(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        """Decide."""
        return self._in_force.authorize(caller, action, resource, circumstances)

    def explain(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Explanation:
        """Decide, and say why."""
        decision = self.decide(caller, action, resource, circumstances)
        decided = tuple(self._policies[name] for name in decision.policies)
        if decision.allowed:
            return Explanation(decision, decided)
        question = Question.of(self._in_force.enroll(caller), action, resource, circumstances)
        near = sorted(self._near(question), key=_distance)
        return Explanation(decision, decided, tuple(near[:MOST_NEAR]), max(0, len(near) - MOST_NEAR))

    def who(self, action: str, resource: Resource, circumstances: Circumstances) -> list[Policy]:
        """The policies, permits first, that may say something about an action on a resource, for callers of their own.

        Left out are those whose scope does not fit, and those with a condition on the resource alone that fails.
        """
        question = Question.of(BOOTSTRAP_ADMIN, action, resource, circumstances)
        found = [
            policy
            for policy in self._policies.values()
            if not self._failed(question, [part for part in wording.parts(policy.parsed) if _is_settled(part)])
        ]
        return sorted(found, key=lambda policy: (policy.parsed["effect"] != "permit", policy.id))

    def _near(self, question: Question) -> Iterable[Near]:
        for policy in self._policies.values():
            if policy.parsed["effect"] != "permit":
                continue
            failed = self._failed(question, wording.parts(policy.parsed))
            if not any(part.kind == "action" for part in failed):
                yield Near(policy, tuple(_told(part, question) for part in failed))

    def _failed(self, question: Question, parts: Sequence[wording.Part]) -> list[wording.Part]:
        """The parts that do not hold. One that cannot be evaluated counts only where those before it hold."""
        holding = self._holding(question, parts, turned=False)
        denied = self._holding(question, parts, turned=True)
        failed: list[wording.Part] = []
        for place, part in enumerate(parts):
            errs = place not in holding and place not in denied and not part.in_scope
            if place not in holding and not (errs and failed):
                failed.append(part)
        return failed

    def _holding(self, question: Question, parts: Sequence[wording.Part], *, turned: bool) -> set[int]:
        alone = {str(place): part.alone(turned=turned) for place, part in enumerate(parts)}
        policies = cedarpy.PolicySet.from_json_str(wording.policy_set(alone))
        entities = cedarpy.Entities.from_json_str(json.dumps(question.entities), self._schema)
        result = cedarpy.is_authorized(question.request, policies, entities, self._schema)
        if result.decision is cedarpy.Decision.NoDecision:
            raise ValueError(f"This question cannot be put: {'; '.join(result.diagnostics.errors)}")
        return {int(reason) for reason in result.diagnostics.reasons}


def _distance(near: Near) -> tuple[bool, int, str]:
    return any(failed.in_scope for failed in near.failed), len(near.failed), near.policy.id


def _is_settled(part: wording.Part) -> bool:
    """Whether a part does not depend on who calls, nor on how."""
    return part.kind != "principal" and not part.asks_for("principal") and not part.asks_for("context")


def _told(part: wording.Part, question: Question) -> Failed:
    looked_at = dict.fromkeys(wording.attributes(part.body))
    values = tuple((_path(*path), question.value(*path)) for path in looked_at)
    if part.kind in ("principal", "resource"):
        uid: Mapping[str, Any] = question.request[part.kind]
        values = ((part.kind, f"{uid['type']}::{json.dumps(uid['id'], ensure_ascii=False)}"), *values)
        if part.kind == "principal" and part.body["op"] == "in":
            values = (*values, ("its groups", question.groups))
    return Failed(part.text, part.in_scope, values)


def _path(variable: str, kind: str, name: str) -> str:
    return f'{variable}.getTag("{name}")' if kind == "tag" else f"{variable}.{name}"

"""The access policy: which caller may do what, to what. Cedar policies; what none permits is denied.

See https://docs.cedarpolicy.com.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import cedarpy

from kubevend_server.callers import Caller
from kubevend_server.leases import Lease
from kubevend_server.policy import entities
from kubevend_server.policy.candidates import Candidates
from kubevend_server.policy.entities import Circumstances, Labels, Resource, Server
from kubevend_server.policy.parsing import COMPILED_SCHEMA, DECIDED_AS, Parsed, PolicyError, actions, parse
from kubevend_server.policy.policy_sets import PolicySets
from kubevend_server.policy.questions import Question
from kubevend_server.policy.visible import FIELDS, Kind, kinds

__all__ = ["DECIDED_AS", "AccessPolicy", "Circumstances", "Decision", "PolicyError", "Resource", "Server", "actions"]

_MOST_REMEMBERED = 4096
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the access policy.

    Attributes:
        allowed: whether.
        policies: the `@id` of each policy that decided; empty where none matched, which denies.
        errors: what went wrong in the evaluation, which denies too.
    """

    allowed: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...] = ()


class AccessPolicy:
    """A set of Cedar policies, parsed and checked against the schema once."""

    def __init__(self, policies: str | Parsed, *, most_chosen: int | None = None) -> None:
        """Parse and check a set of policies.

        Args:
            policies: Cedar text, in which every policy has an `@id` of its own; or what `parse` has made of it.
            most_chosen: up to how many policies that can matter to a question are evaluated apart from the others;
                where more can, all are evaluated. By default as many as are worth it.

        Raises:
            PolicyError: the text does not parse, does not fit the schema, or an `@id` is missing or doubled.
        """
        parsed = parse({"": policies}) if isinstance(policies, str) else policies
        self._by_id = parsed.by_id
        self._candidates = Candidates(parsed.by_id)
        self._sets = PolicySets(parsed.by_id, self._candidates, most_chosen)
        everything = list(parsed.by_id.values())
        self._asks_for_the_time = _asks_for_the_time(everything)
        # Cedar has no clock and no state, so the same question has the same answer.
        self._remembered = functools.lru_cache(_MOST_REMEMBERED)(self._evaluate)
        self._remembered_of_leases = functools.lru_cache(_MOST_REMEMBERED)(self._evaluate)
        # Else it is what leases are about that decides, which many leases have in common.
        self._tells_leases_apart = _names_a_lease(everything)

    def __len__(self) -> int:
        return len(self._by_id)

    def authorize(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        """Decide whether a caller may do something.

        Args:
            caller: who.
            action: what: a method's name, or `UseConfig`.
            resource: to what.
            circumstances: the rest of what policies may ask about.

        Returns:
            The decision. An evaluation error is a denial: Cedar by itself would skip a `forbid` that errs.
        """
        if not self._asks_for_the_time:
            # Else no question would ever be asked again.
            circumstances = replace(circumstances, time=_ANY_TIME)
        else:
            circumstances = replace(circumstances, time=circumstances.time.replace(microsecond=0))
        # What is asked again and again is small; proposed roles may be large, and the names of ServiceAccounts that are
        # made for leases are many.
        made = circumstances.terms is not None and circumstances.terms.account is not None
        if isinstance(resource, Lease):
            if self._tells_leases_apart:
                return self._evaluate(caller, action, resource, circumstances)
            return self._remembered_of_leases(caller, action, _any_such(resource), circumstances)
        if circumstances.proposed is not None or made:
            return self._evaluate(caller, action, resource, circumstances)
        return self._remembered(caller, action, resource, circumstances)

    def _evaluate(self, caller: Caller, action: str, resource: Resource, circumstances: Circumstances) -> Decision:
        request, known = question(caller, action, resource, circumstances)
        policies = self._sets.of(self._candidates.find(Question(request, known)))
        parsed = cedarpy.Entities.from_json_str(json.dumps([*known]), COMPILED_SCHEMA)
        result = cedarpy.is_authorized(dict(request), policies, parsed, COMPILED_SCHEMA)
        errors = tuple(sorted(result.diagnostics.errors))
        return Decision(result.allowed and not errors, tuple(sorted(result.diagnostics.reasons)), errors)

    def gettable(self, caller: Caller, circumstances: Circumstances, roles: Mapping[str, Labels]) -> Sequence[Kind]:
        """The kinds of leases that a caller may get: it may get none that is of none of them, but not all that are.

        Args:
            caller: who.
            circumstances: of the call that lists them.
            roles: the labels of the roles that there are, by their names.
        """

        def decide(kind: Kind, labels: Labels) -> bool:
            asked = replace(circumstances, role_labels=labels)
            return self.authorize(caller, "GetLease", _lease_of(kind), asked).allowed

        request, known = question(caller, "GetLease", _lease_of(dict.fromkeys(FIELDS, "")), circumstances)
        possible = self._candidates.ids(self._candidates.find(Question(request, known, any_resource=True)))
        return kinds([self._by_id[identity] for identity in possible], entities.principal(caller), roles, decide)


def question(
    caller: Caller, action: str, resource: Resource, circumstances: Circumstances
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """A question in Cedar's JSON, and the entities that it is about."""
    request = {
        "principal": {"type": caller.kind, "id": caller.name},
        "action": {"type": "Action", "id": action},
        "resource": {"type": type(resource).__name__, "id": resource.name},
        "context": entities.context(caller, resource, circumstances),
    }
    return request, entities.known(caller, resource, circumstances)


def _names_a_lease(policies: Any) -> bool:
    """Whether policies, as Cedar's JSON has them, speak of a lease by its name."""
    if isinstance(policies, dict):
        named = policies.get("type") == "Lease" and "id" in policies
        return named or any(map(_names_a_lease, policies.values()))
    return isinstance(policies, list) and any(map(_names_a_lease, policies))


def _asks_for_the_time(policies: Any) -> bool:
    """Whether policies, as Cedar's JSON has them, may look at `context.time`: whether they speak of any `time`."""
    if isinstance(policies, dict):
        named = policies.get("attr") == "time" or "time" in policies
        return named or any(map(_asks_for_the_time, policies.values()))
    return isinstance(policies, list) and any(map(_asks_for_the_time, policies))


def _any_such(lease: Lease) -> Lease:
    """A lease that has in common with this one what policies may ask about."""
    return _lease_of({name: getattr(lease, name) for name in FIELDS})


def _lease_of(fields: Kind) -> Lease:
    return Lease(
        name="leases/any",
        role=fields["role"],
        config=fields["config"],
        caller=fields["caller"],
        namespace=fields["namespace"],
        service_account=fields["service_account"],
        audiences=(),
        create_time=_NEVER,
        expire_time=_NEVER,
    )

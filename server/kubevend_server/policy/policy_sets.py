"""Sets of some of the policies, as Cedar evaluates them: made when first asked for, and remembered within a bound."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import cedarpy

from kubevend_server.policy.candidates import Candidates, Chosen

_FEW = 32
_SHARE = 16
"""To make a set of one policy takes as long as to evaluate 10 to 20 (20 to 60 µs)."""

_MOST_REMEMBERED = 16_384
"""Policies in all sets that are remembered, of 5 KiB each."""


class PolicySets:
    """Gives, for chosen policies, a set with the same answer as all: the chosen alone where they are few, else all."""

    def __init__(self, policies: Mapping[str, Any], candidates: Candidates, most_chosen: int | None) -> None:
        """Take policies as Cedar's JSON has them, and what chooses among them.

        Args:
            policies: by their ids.
            candidates: what has chosen.
            most_chosen: up to how many get a set of their own. By default so many that to make it, whatever the
                question, takes no longer than to evaluate all.
        """
        self._policies = policies
        self._candidates = candidates
        self._most_chosen = max(_FEW, len(policies) // _SHARE) if most_chosen is None else most_chosen
        self._all = self._make(policies)
        self._remembered: OrderedDict[Chosen, cedarpy.PolicySet] = OrderedDict()
        self._policies_remembered = 0

    def of(self, chosen: Chosen) -> cedarpy.PolicySet:
        """A set that has these, or all."""
        if chosen.bit_count() > self._most_chosen:
            return self._all
        found = self._remembered.get(chosen)
        if found is not None:
            self._remembered.move_to_end(chosen)
            return found
        made = self._make({identity: self._policies[identity] for identity in self._candidates.ids(chosen)})
        self._remember(chosen, made)
        return made

    def _remember(self, chosen: Chosen, made: cedarpy.PolicySet) -> None:
        self._remembered[chosen] = made
        self._policies_remembered += _weight(chosen)
        while self._policies_remembered > _MOST_REMEMBERED:
            oldest, _ = self._remembered.popitem(last=False)
            self._policies_remembered -= _weight(oldest)

    @staticmethod
    def _make(policies: Mapping[str, Any]) -> cedarpy.PolicySet:
        # Cedar calls each policy by its @id then, in its errors too.
        written = json.dumps({"staticPolicies": {**policies}, "templates": {}, "templateLinks": []})
        return cedarpy.PolicySet.from_json_str(written, release_gil=True)


def _weight(chosen: Chosen) -> int:
    """An empty set takes memory, too."""
    return chosen.bit_count() + 1

"""Policies that no question about an action can exclude, whoever asks: where they are many, each decision is slow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubevend_server.policy.atoms import Atom
from kubevend_server.policy.needs import needs
from kubevend_server.policy.parsing import GROUPS_OF_ACTIONS
from kubevend_server.policy.questions import TYPE, key

MOST = 100
"""So many cost as much as the rest of a decision."""

_ACTIONS = tuple(sorted(set(GROUPS_OF_ACTIONS) - {group for groups in GROUPS_OF_ACTIONS.values() for group in groups}))


def too_broad(policies: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell of policies that are evaluated for every question, where they are more than `MOST`.

    Args:
        policies: as Cedar's JSON has them, by their ids.

    Yields:
        The id of the first of them, and what to say; once for all actions that have the same policies.
    """
    needed = {identity: [*needs(policy)] for identity, policy in policies.items()}
    found: dict[tuple[str, ...], list[str]] = {}
    for action in _ACTIONS:
        ids = tuple(
            identity
            for identity, clauses in needed.items()
            if all(any(_always_holds(atom, action) for atom in clause) for clause in clauses)
        )
        if len(ids) > MOST:
            found.setdefault(ids, []).append(action)
    for ids, actions in found.items():
        message = (
            f"each {', '.join(actions)} has {len(ids)} policies evaluated, whoever asks and for what: "
            f"{', '.join(ids[:3])}, … That takes up to 4 µs each. Say in each for whom or what it is, in one of the "
            "ways that docs/performance.md has"
        )
        yield ids[0], message


def _always_holds(atom: Atom, action: str) -> bool:
    """Whether nothing in a question about an action but the types of caller and resource can keep it from holding."""
    if atom.path[0] != "action":
        return bool(atom.path[-1] == TYPE)
    held = {key({"__entity": each}) for each in _entities(action, atom.kind == "member")}
    return atom.positive != held.isdisjoint(atom.values)


def _entities(action: str, with_groups: bool) -> Iterable[Mapping[str, str]]:
    names = (action, *(GROUPS_OF_ACTIONS[action] if with_groups else ()))
    return [{"type": "Action", "id": name} for name in names]

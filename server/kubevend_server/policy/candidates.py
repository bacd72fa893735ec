"""Which policies can matter to a question: Cedar looks at each that it is given, so it is given few of many.

Of each policy it is known what must hold for it to matter (`needs.py`), as clauses of which all must hold. Whether they
do is not asked of one policy after the other, but of each value that policies look at: which clauses it lets hold, of
all policies, is found by the value (`columns.py`). So the time hardly grows with the number of policies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kubevend_server.policy.atoms import Atom, Clause
from kubevend_server.policy.columns import Bits, Column
from kubevend_server.policy.needs import needs
from kubevend_server.policy.questions import Path, Question

_MOST_CLAUSES = 12
_MOST_PATHS = 64
"""What is looked at for each question. More excludes more policies, and takes longer: 1 µs each."""

Chosen = int
"""Policies, as the bits of a number: the first is 1, the second 2."""


class Candidates:
    """Finds the policies that can matter to a question."""

    def __init__(self, policies: Mapping[str, Any]) -> None:
        """Take policies as Cedar's JSON has them, by their ids. They fit the schema."""
        self._ids = tuple(policies)
        self._every = (1 << len(self._ids)) - 1
        clauses = _few([[*dict.fromkeys(needs(policy))] for policy in policies.values()])
        self._levels = max(map(len, clauses), default=0)
        # A clause's bit is that of its policy, moved by all policies for each clause before it.
        self._free: Bits = 0
        asked: dict[tuple[Path, Any], list[tuple[Atom, Bits]]] = {}
        for number, needed in enumerate(clauses):
            for level in range(self._levels):
                bit = 1 << (level * len(self._ids) + number)
                if level >= len(needed):
                    self._free |= bit
                    continue
                for atom in needed[level]:
                    asked.setdefault((atom.path, atom.kind), []).append((atom, bit))
        self._columns: dict[Path, list[Column]] = {}
        for (path, kind), atoms in asked.items():
            self._columns.setdefault(path, []).append(Column(kind, atoms))

    def find(self, question: Question) -> Chosen:
        """The policies that can matter to a question; no others of the kinds told here."""
        holding = self._free
        for path, columns in self._columns.items():
            value = question.value(path)
            for column in columns:
                holding |= column.holds(value)
        found = self._every
        for level in range(self._levels):
            found &= holding >> (level * len(self._ids))
        return found

    def ids(self, chosen: Chosen) -> tuple[str, ...]:
        """The policies' ids, in their order."""
        found = []
        while chosen:
            last = chosen.bit_length() - 1
            found.append(self._ids[last])
            chosen ^= 1 << last
        return tuple(reversed(found))


def _few(clauses: list[list[Clause]]) -> list[list[Clause]]:
    """Of each policy's clauses those that can be looked at; where they are many, those that tell the most.

    What is left out excludes fewer policies, and no policy that matters.
    """
    asking = Counter(path for needed in clauses for path in {atom.path for clause in needed for atom in clause})
    paths = {path for path, _ in asking.most_common(_MOST_PATHS)}
    used = Counter(atom for needed in clauses for clause in needed for atom in clause)

    def popularity(clause: Clause) -> int:
        return sum(used[atom] for atom in clause)

    def usable(clause: Clause) -> bool:
        return _is_simple(clause) and all(atom.path in paths for atom in clause)

    return [sorted(filter(usable, needed), key=popularity)[:_MOST_CLAUSES] for needed in clauses]


def _is_simple(clause: Clause) -> bool:
    """Whether it can be told of each value alone: where two things must not be so, one of them may."""
    alone = [(atom.path, atom.kind) for atom in clause if not atom.positive or atom.kind == "within"]
    return len(alone) == len(set(alone))

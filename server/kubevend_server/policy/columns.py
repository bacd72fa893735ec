"""Which clauses hold, of all clauses of all policies: found by value, a set of them being the bits of one number."""

from __future__ import annotations

import bisect
import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubevend_server.policy.atoms import Atom, Kind
from kubevend_server.policy.questions import UNKNOWN, key

Bits = int


_TYPES: Mapping[Kind, type] = {
    "member": list,
    "within": list,
    "begins": str,
    "ends": str,
    "number": int,
    "moment": dict,
    "network": dict,
}


class Column:
    """What is asked of one value in one way, by all policies."""

    def __init__(self, kind: Kind, asked: Iterable[tuple[Atom, Bits]]) -> None:
        """Take atoms of one path and kind, each with the bit of its clause.

        No clause has two of them that must not hold, nor two of `within`.
        """
        self.kind = kind
        self._all = self._negative = 0
        self._hits: dict[bool, dict[Any, Bits]] = {True: {}, False: {}}
        for atom, bit in asked:
            self._all |= bit
            self._negative |= 0 if atom.positive else bit
            hits = self._hits[atom.positive]
            for value in atom.values:
                hits[value] = hits.get(value, 0) | bit
        self._lengths = sorted({_length(kind, value) for hits in self._hits.values() for value in hits}, key=repr)
        self._thresholds, self._steps = _steps(self._hits) if kind in ("number", "moment") else ([], [])

    def holds(self, value: Any) -> Bits:
        """The clauses that an atom of this column lets hold, where it looks at this value.

        All where the value is not known: a policy that looks at it all the same may err.
        """
        # Of another type it is where no question comes to it, which the schema then lets pass.
        fits = isinstance(value, _TYPES.get(self.kind, object))
        if value is UNKNOWN or not fits:
            return self._all
        match self.kind:
            case "number" | "moment":
                return self._at_least(value)
            case "within":
                return self._within(value)
        found = self._keys(value)
        if found is None:
            return self._all
        positive, negative = self._hits[True], self._hits[False]
        hit = missed = 0
        for each in found:
            hit |= positive.get(each, 0)
            missed |= negative.get(each, 0)
        return hit | (self._negative & ~missed)

    def _keys(self, value: Any) -> Sequence[Any] | None:
        """Those of all values to compare with that this one fits. There are few, however long it is."""
        match self.kind:
            case "equals":
                found = key(value)
                return None if found is None else [found]
            case "member":
                members = [key(member) for member in value]
                return None if None in members else members
            case "begins":
                return [value[:length] for length in self._lengths if length <= len(value)]
            case "ends":
                return [value[-length:] for length in self._lengths if length <= len(value)]
            case _:
                return _networks(value, self._lengths)

    def _at_least(self, value: Any) -> Bits:
        value = value["__extn"]["arg"] if self.kind == "moment" else value
        return self._steps[bisect.bisect_right(self._thresholds, (value, False))]

    def _within(self, value: Sequence[Any]) -> Bits:
        positive, negative = self._all & ~self._negative, self._negative
        for member in map(key, value):
            positive &= self._hits[True].get(member, 0)
            negative &= self._hits[False].get(member, 0)
        return positive | (self._negative & ~negative)


def _length(kind: Kind, value: Any) -> Any:
    """By which a value is cut to be looked up among those of a kind."""
    if kind == "network":
        return value[:2]
    return len(value) if kind in ("begins", "ends") else 0


def _networks(value: Any, lengths: Sequence[tuple[int, int]]) -> Sequence[Any] | None:
    """The networks that an address is in, of those of certain lengths; None where it is none that is understood."""
    try:
        address = ipaddress.ip_address(value["__extn"]["arg"])
    except ValueError:
        return None
    number = int(address)
    return [
        (version, length, number >> (address.max_prefixlen - length))
        for version, length in lengths
        if version == address.version
    ]


def _steps(hits: dict[bool, dict[Any, Bits]]) -> tuple[list[Any], list[Bits]]:
    """Thresholds in their order, and what holds below the first, from each on up to the next, and from the last on."""
    thresholds = sorted({*hits[True], *hits[False]})
    reached = _gathered(hits[True].get(each, 0) for each in thresholds)
    not_yet = [*_gathered(hits[False].get(each, 0) for each in reversed(thresholds))][::-1]
    return thresholds, [one | other for one, other in zip(reached, not_yet, strict=True)]


def _gathered(bits: Iterable[Bits]) -> Iterator[Bits]:
    return itertools.accumulate(bits, int.__or__, initial=0)

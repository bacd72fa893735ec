"""How often somebody may do something: the generic cell rate algorithm (ITU-T I.371), a number for each key.

The number is the moment at which all that a key has taken is paid off. So a key that has no debt needs no memory, and
to forget one means to forgive it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

_MOST_KEYS = 20_000
_KEPT = 7 / 8
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """How often.

    Attributes:
        per_second: in the long run; 0 for as often as one likes.
        burst: at once, by whom nothing was heard of for a while.
    """

    per_second: float
    burst: int


@dataclass(slots=True)
class Throttle:
    """Holds each key to a rate: in any `t` seconds it takes at the most `burst + per_second * t`.

    Where there are too many keys, the eighth that owes the least is forgotten: those who owe much stay known, however
    many others come, and nobody is turned away for what others owe.

    Attributes:
        rate: how often.
        monotonic: seconds that never go back.
        most_keys: how many keys it knows at once.
    """

    rate: Rate
    monotonic: Callable[[], float]
    most_keys: int = _MOST_KEYS
    _paid_off: dict[Hashable, float] = field(default_factory=dict, repr=False)

    def admit(self, key: Hashable) -> float:
        """Take one, if the key may.

        Returns:
            0 where it was taken; else the seconds after which the key may again, and nothing was taken.
        """
        wait = self.wait(key)
        if not wait:
            self.take(key)
        return wait

    def wait(self, key: Hashable) -> float:
        """The seconds after which a key may take one; 0 for now."""
        if not self.rate.per_second:
            return 0.0
        credit = (self.rate.burst - 1) / self.rate.per_second
        wait = self._paid_off.get(key, 0.0) - credit - self.monotonic()
        return wait if wait > _ROUNDING else 0.0

    def take(self, key: Hashable) -> None:
        """Take one, whether or not the key may. Nobody ever owes more than twice the burst."""
        if not self.rate.per_second:
            return
        now = self.monotonic()
        most = now + 2 * self.rate.burst / self.rate.per_second
        if key not in self._paid_off and len(self._paid_off) >= self.most_keys:
            self._forget()
        self._paid_off[key] = min(max(now, self._paid_off.get(key, now)) + 1 / self.rate.per_second, most)

    def _forget(self) -> None:
        kept = heapq.nlargest(int(self.most_keys * _KEPT), self._paid_off.items(), key=lambda item: item[1])
        self._paid_off = dict(kept)

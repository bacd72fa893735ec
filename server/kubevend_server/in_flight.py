"""What is under way in this process: leases that are being issued, and the anchors that they are about to stand on."""

from __future__ import annotations

from collections import Counter


class InFlight:
    """Leases and anchors of issuances that have not come to their end."""

    def __init__(self) -> None:
        self._leases: set[str] = set()
        self._anchors: Counter[str] = Counter()

    @property
    def leases(self) -> frozenset[str]:
        """The names of the leases that are pending, and not abandoned."""
        return frozenset(self._leases)

    @property
    def anchors(self) -> frozenset[str]:
        """The ids of the anchors that leases are about to stand on."""
        return frozenset(self._anchors)

    def begin(self, lease: str) -> None:
        """A lease is being issued."""
        self._leases.add(lease)

    def end(self, lease: str) -> None:
        """It is issued, or not; all of it is recorded."""
        self._leases.discard(lease)

    def take(self, anchor: str) -> None:
        """A lease is about to stand on an anchor, which is not to be taken away for want of leases."""
        self._anchors[anchor] += 1

    def drop(self, anchor: str) -> None:
        """It does, or will not."""
        self._anchors[anchor] -= 1
        if not self._anchors[anchor]:
            del self._anchors[anchor]

"""A credential as it is kept in a file: the answer to kubectl, ready to be printed. Loads next to nothing."""

from __future__ import annotations

import hashlib

_VERSION = "kubevend-credential/1"
_SKEW_SECONDS = 60.0
"""A credential that was issued later than that from now on comes from before the clock was set back."""


class Kept:
    """What is kept of a credential. Times are seconds since the epoch, by this machine's clock.

    Attributes:
        answer: the ExecCredential, JSON in one line.
        begins: when it was asked for.
        renew_at: when another one is to be asked for.
        usable_until: from when on nobody is given it any more.
    """

    __slots__ = ("answer", "begins", "renew_at", "usable_until")

    def __init__(self, answer: str, begins: float, renew_at: float, usable_until: float) -> None:
        self.answer = answer
        self.begins = begins
        self.renew_at = renew_at
        self.usable_until = usable_until

    def __repr__(self) -> str:
        return f"Kept(renew_at={self.renew_at}, usable_until={self.usable_until})"

    def is_usable(self, now: float) -> bool:
        """Whether it may still be handed out."""
        return self.begins - _SKEW_SECONDS < now < self.usable_until

    def is_fresh(self, now: float) -> bool:
        """Whether no other need be asked for yet."""
        return self.is_usable(now) and now < self.renew_at

    def to_text(self) -> str:
        """A file's text, which tells by a digest whether it is whole."""
        body = f"{self.begins!r} {self.renew_at!r} {self.usable_until!r}\n{self.answer}\n"
        return f"{_VERSION} {_digest(body)}\n{body}"

    @classmethod
    def of_text(cls, text: str | None) -> Kept | None:
        """Read a file's text; None for what is no such file, or none that is whole."""
        head, _, body = (text or "").partition("\n")
        if head != f"{_VERSION} {_digest(body)}":
            return None
        times, _, answer = body.partition("\n")
        begins, renew_at, usable_until = map(float, times.split())
        return cls(answer.rstrip("\n"), begins, renew_at, usable_until)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

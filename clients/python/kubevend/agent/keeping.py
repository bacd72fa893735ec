"""One output: its token, its files, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubevend.agent.actions import Action
from kubevend.agent.clusters import Place
from kubevend.agent.config import Output, files_of
from kubevend.agent.contents import render
from kubevend.agent.log import Log
from kubevend.agent.placing import Placed, PlacingError, Target, clear_leftovers, commit_all, holds, remove
from kubevend.errors import KubevendError
from kubevend.tokens import Token
from kubevend.upkeep import PERMANENT, now

_AGAIN_SECONDS = 5.0
"""After so long it is tried again to write a file."""

_SUCCESSOR_SECONDS = 10.0
"""So long a revoked token's successor may take."""


@dataclass
class Tally:
    """What happened to an output so far.

    Attributes:
        renewals: tokens that came.
        failures: times that the next one could not be had.
        write_failures: times that files could not be written.
        changed_at: when files last changed, in seconds since the epoch; 0 for never.
    """

    renewals: int = 0
    failures: int = 0
    write_failures: int = 0
    changed_at: float = 0.0


class Keeper:
    """Keeps one output's files. Its methods are called by the main thread; what it says of itself, any may read.

    Attributes:
        output: the output.
        action: what is done when it changes.
        tally: what happened to it so far.
        failure: why there is no next token, or none at all.
        problem: why its files are not as they should be; empty where they are.
        is_written: whether the last token is in its files.
    """

    def __init__(self, output: Output, action: Action, log: Log, clock: Callable[[], float] = now) -> None:
        """Take the output, what is done when it changes, and seconds that nobody sets."""
        self.output = output
        self.action = action
        self.tally = Tally()
        self.failure: KubevendError | None = None
        self.is_written = False
        self._log = log
        self._clock = clock
        self._token: Token | None = None
        self._place: Place | None = None
        self._good_until = 0.0
        self._write_at: float | None = None
        self._remove_at: float | None = None
        self.problem = ""

    def clear_leftovers(self) -> None:
        """Remove what an agent left that was killed while it wrote."""
        for file in files_of(self.output):
            try:
                if count := clear_leftovers(file):
                    self._log.info("leftovers_removed", output=self.output.name, file=str(file), count=count)
            except PlacingError as error:
                self.problem = str(error)

    def renewed(self, token: Token, good_until: float) -> None:
        """Take another token, which is good until then by the clock."""
        self.tally.renewals += 1
        self._token, self._good_until = token, good_until
        self.failure = self._remove_at = None
        self.is_written = False
        self._write_at = self._clock()
        self.tick()

    def located(self, place: Place) -> None:
        """Take where the cluster is."""
        self._place = place
        self.tick()

    def failed(self, error: KubevendError) -> None:
        """Take it that the next token, or where the cluster is, could not be had."""
        self.tally.failures += 1
        self.failure = error
        if self._remove_at is not None and error.code in PERMANENT:
            self._remove_at = self._clock()
        self.tick()

    def revoked(self, lease: str) -> None:
        """Take it that a lease was revoked: if it is this output's, its token is not to be used any more."""
        if self._token is None or self._token.lease != lease:
            return
        self._token = None
        if self.output.remove_revoked:
            self._remove_at = self._clock() + _SUCCESSOR_SECONDS

    def tick(self) -> None:
        """Do what is due by now."""
        time_now = self._clock()
        if self._token and time_now >= self._good_until:
            self._expired(time_now)
        if self._remove_at is not None and time_now >= self._remove_at:
            self._remove_at = None
            self._remove()
        can_write = self._token and (self._place or not self.output.needs_cluster)
        if can_write and self._write_at is not None and time_now >= self._write_at:
            self._write()
        self.action.tick()

    @property
    def seconds_left(self) -> float:
        """For how long the token in the files is good; 0 where there is none."""
        return max(0.0, self._good_until - self._clock()) if self._token and self.is_written else 0.0

    @property
    def state(self) -> str:
        """How it stands, in words."""
        why = self.problem or (f"{self.failure}" if self.failure else "")
        if left := self.seconds_left:
            return f"good for {left:.0f} s" + (f"; no next one yet: {why}" if why else "")
        return why or ("where the cluster is, is not known yet" if self._token else "no token yet")

    def _write(self) -> None:
        self._write_at = None
        try:
            changed = self._place_all()
        except PlacingError as error:
            self.problem = str(error)
            self.tally.write_failures += 1
            self._write_at = self._clock() + _AGAIN_SECONDS
            self._log.error("not_written", output=self.output.name, why=str(error))
            return
        self.problem, self.is_written = "", True
        token = self._token
        if changed and token:
            self.tally.changed_at = time.time()
            self._log.info(
                "written",
                output=self.output.name,
                files=[str(file) for file in changed],
                lease=token.lease,
                jti=token.jti,
                expiration=token.expiration.isoformat(),
                warnings=[warning.message for warning in token.warnings],
            )
            self.action.fire()

    def _place_all(self) -> list[Path]:
        """Write what is not yet as it is to be."""
        if self._token is None:
            return []
        return place_all(self.output, render(self.output, self._token, self._place))

    def _expired(self, time_now: float) -> None:
        self._token = None
        self._log.error("expired", output=self.output.name, why=str(self.failure or ""))
        if self.output.remove_expired:
            self._remove_at = time_now

    def _remove(self) -> None:
        self.is_written = False
        try:
            removed = [str(file) for file in files_of(self.output) if remove(file)]
        except PlacingError as error:
            self.problem = str(error)
            self._log.error("not_removed", output=self.output.name, why=str(error))
            return
        if removed:
            self.tally.changed_at = time.time()
            self._log.warning("removed", output=self.output.name, files=removed)
            self.action.fire()


def place_all(output: Output, contents: dict[Path, bytes]) -> list[Path]:
    """Write those files that are not yet as they are to be: all of them before the first one is put in its place.

    Raises:
        PlacingError: one cannot be written.
    """
    new = stage(output, contents)
    commit_all([*new.values()])
    return [*new]


def stage(output: Output, contents: dict[Path, bytes]) -> dict[Path, Placed]:
    """Write them beside the files.

    Raises:
        PlacingError: one cannot be written; none is left.
    """
    staged: dict[Path, Placed] = {}
    try:
        for file, content in contents.items():
            target = Target(file, output.mode, output.owner, output.group)
            if not holds(target, content):
                staged[file] = Placed(target, content)
    except PlacingError:
        for placed in staged.values():
            placed.discard()
        raise
    return staged

"""What a token source tells, and whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kubevend.errors import KubevendError
from kubevend.tokens import Token

_log = logging.getLogger("kubevend")


@dataclass(frozen=True, slots=True)
class Renewed:
    """There is another token."""

    token: Token


@dataclass(frozen=True, slots=True)
class Revoked:
    """A lease was ended before its time; the message says why."""

    lease: str
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """No further token is allowed. The one that is held goes on being served until its end."""

    error: KubevendError


@dataclass(frozen=True, slots=True)
class Failed:
    """No token could be had just now, which is tried again."""

    error: KubevendError


Told = Renewed | Revoked | Refused | Failed
"""What listeners are told."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told of each kind of event, if anybody is."""

    on_renewed: Callable[[Token], object] | None
    on_revoked: Callable[[str, str], object] | None
    on_refused: Callable[[KubevendError], object] | None
    on_failed: Callable[[KubevendError], object] | None = None

    def tell(self, event: Told) -> None:
        """Tell it. What a listener raises is logged, and ends nothing."""
        try:
            self._tell(event)
        except Exception:  # noqa: BLE001 - it is the user's
            _log.exception("A listener of a token source failed.")

    def _tell(self, event: Told) -> None:
        match event:
            case Renewed(token) if self.on_renewed:
                self.on_renewed(token)
            case Revoked(lease, message) if self.on_revoked:
                self.on_revoked(lease, message)
            case Refused(error) if self.on_refused:
                self.on_refused(error)
            case Failed(error) if self.on_failed:
                self.on_failed(error)

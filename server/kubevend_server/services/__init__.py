"""The services of the API: proto in, domain call, proto out. They decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kubevend_server.calls import Handler
from kubevend_server.streams import Opener


class Service(Protocol):
    """One service of the API."""

    name: str
    """Its full name, `kubevend.v1.IssueService`."""

    def handlers(self) -> dict[str, Handler]:
        """Its methods with one answer, by name."""

    def openers(self) -> Mapping[str, Opener]:
        """Its methods with many answers, by name."""
        return {}

"""The services of the API: proto in, domain call, proto out. They decide nothing."""

from __future__ import annotations

from typing import Protocol

from kubevend_server.calls import Handler


class Service(Protocol):
    """One service of the API."""

    name: str
    """Its full name, `kubevend.v1.IssueService`."""

    def handlers(self) -> dict[str, Handler]:
        """Its methods by name."""

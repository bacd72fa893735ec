"""Names of resources as people write them, and their completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

_COMPLETION_SECONDS = 2.0


@dataclass(frozen=True)
class Names:
    """The names of one kind of resource.

    Attributes:
        plural: with which they begin, as `roles`.
    """

    plural: str

    def full(self, name: str) -> str:
        """`ci` and `roles/ci` are both `roles/ci`."""
        return name if name.startswith(f"{self.plural}/") else f"{self.plural}/{name}"

    def short(self, name: str) -> str:
        """Both are `ci`."""
        return name.removeprefix(f"{self.plural}/")

    def complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        """What a shell may complete to: the names that kubevend has, as far as it answers at once."""
        del param
        try:
            found = [self.short(name) for name in self._fetch(ctx.params)]
        except Exception:  # noqa: BLE001 - whatever it is, a prompt is no place to tell it; the command itself will
            return []
        prefix = f"{self.plural}/" if incomplete.startswith(f"{self.plural}/") else ""
        return [prefix + name for name in found if name.startswith(self.short(incomplete))]

    def _fetch(self, given: dict[str, Any]) -> list[str]:
        from kubevend.cli.where import take_settings
        from kubevend.client import Client
        from kubevend.v1 import config_service_pb2, role_service_pb2

        with Client(take_settings(dict(given))) as client:
            if self.plural == "roles":
                roles = client.roles.ListRoles(
                    role_service_pb2.ListRolesRequest(page_size=1000), timeout=_COMPLETION_SECONDS
                )
                return [role.name for role in roles.roles]
            configs = client.configs.ListConfigs(
                config_service_pb2.ListConfigsRequest(page_size=1000), timeout=_COMPLETION_SECONDS
            )
            return [config.name for config in configs.configs]


ROLE = Names("roles")
CONFIG = Names("configs")
LEASE = Names("leases")

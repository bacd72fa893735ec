"""The configs and roles as they are now, in memory: every issuance needs one of each."""

from __future__ import annotations

from collections.abc import Iterable

from kubevend_server.configs import Config
from kubevend_server.roles import Role


class Catalog:
    """Configs and roles by name.

    The journal's commits keep it equal to the store, and `refresh.py` does where others write there.

    Attributes:
        changes: how often this process itself has changed it.
        version: how often it was changed, by whomever.
    """

    def __init__(self, configs: Iterable[Config], roles: Iterable[Role]) -> None:
        self._configs = {config.name: config for config in configs}
        self._roles = {role.name: role for role in roles}
        self.changes = 0
        self.version = 0

    def config(self, name: str) -> Config | None:
        """The config of this name."""
        return self._configs.get(name)

    def role(self, name: str) -> Role | None:
        """The role of this name."""
        return self._roles.get(name)

    def configs(self) -> list[Config]:
        """All configs, in the order of their names."""
        return [self._configs[name] for name in sorted(self._configs)]

    def roles(self) -> list[Role]:
        """All roles, in the order of their names."""
        return [self._roles[name] for name in sorted(self._roles)]

    def put(self, resource: Config | Role) -> None:
        """Take a resource in, in place of its older version."""
        self.changes += 1
        self.version += 1
        if isinstance(resource, Config):
            self._configs[resource.name] = resource
        else:
            self._roles[resource.name] = resource

    def remove(self, resource: Config | Role) -> None:
        """Take a resource out."""
        self.changes += 1
        self.version += 1
        if isinstance(resource, Config):
            self._configs.pop(resource.name, None)
        else:
            self._roles.pop(resource.name, None)

    def replace(self, configs: Iterable[Config], roles: Iterable[Role]) -> None:
        """Take all of them as they were read from the store, in place of what was there."""
        self.version += 1
        self._configs = {config.name: config for config in configs}
        self._roles = {role.name: role for role in roles}

"""Roles in the store."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import sqlalchemy as sa

from kubevend_server.errors import AlreadyExists, NotFound
from kubevend_server.roles import Role
from kubevend_server.store import revision
from kubevend_server.store.changes import Change
from kubevend_server.store.configs import etag_mismatch, require_config
from kubevend_server.store.schema import roles


def all_roles(connection: sa.Connection) -> list[Role]:
    """Every role."""
    return [_from_row(row) for row in connection.execute(sa.select(roles))]


def insert(role: Role) -> Change:
    """The change that adds a role. Refuses a name that is taken, and a config that is not there."""

    def change(connection: sa.Connection) -> None:
        require_config(connection, role.config)
        try:
            connection.execute(sa.insert(roles).values(_to_row(role)))
            revision.bump(connection)
        except sa.exc.IntegrityError as error:
            raise AlreadyExists(
                "ROLE_EXISTS",
                f"{role.name} exists already. Change it with UpdateRole, or choose another role_id.",
                metadata={"role": role.name},
            ) from error

    return change


def update(old: Role, new: Role) -> Change:
    """The change from one version of a role to the next. Refuses if the old one is no longer the current one."""

    def change(connection: sa.Connection) -> None:
        require_config(connection, new.config)
        changed = connection.execute(
            sa.update(roles).where(roles.c.name == old.name, roles.c.etag == old.etag).values(_to_row(new))
        )
        if changed.rowcount == 0:
            raise etag_mismatch(old.name)
        revision.bump(connection)

    return change


def delete(role: Role) -> Change:
    """The change that removes a role. Refuses if it is no longer the current version."""

    def change(connection: sa.Connection) -> None:
        deleted = connection.execute(sa.delete(roles).where(roles.c.name == role.name, roles.c.etag == role.etag))
        if deleted.rowcount == 0:
            raise etag_mismatch(role.name)
        revision.bump(connection)

    return change


def role_not_found(name: str) -> NotFound:
    """The answer for a role that is not there, or that the caller may not see."""
    return NotFound(
        "ROLE_NOT_FOUND",
        f"{name} does not exist, or you may not see it. ListRoles shows those that you may see.",
        metadata={"role": name},
    )


def _to_row(role: Role) -> dict[str, object]:
    bare = replace(role, etag="", create_time=None, update_time=None)
    return {
        "name": role.name,
        "config": role.config,
        "rules": msgspec.json.encode(bare).decode(),
        "etag": role.etag,
        "create_time": role.create_time,
        "update_time": role.update_time,
    }


def _from_row(row: sa.Row[tuple[object, ...]]) -> Role:
    bare = msgspec.json.decode(row.rules, type=Role)
    return replace(bare, etag=row.etag, create_time=row.create_time, update_time=row.update_time)

"""Configs in the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec
import sqlalchemy as sa

from kubevend_server.audit.log import rfc3339
from kubevend_server.config_rules import normalized
from kubevend_server.configs import Config, Credential
from kubevend_server.encryption import Keyring
from kubevend_server.errors import Aborted, AlreadyExists, FailedPrecondition, KubevendError, NotFound
from kubevend_server.store import leases, objects, revision
from kubevend_server.store.changes import Change
from kubevend_server.store.schema import configs, roles

_ANOTHER_CONFIG = ", or make another config and point the roles at it"


class ConfigStore:
    """Reads configs, and makes the changes that the journal commits."""

    def __init__(self, keyring: Keyring) -> None:
        """Take the keys under which credentials are sealed."""
        self._keyring = keyring

    def all(self, connection: sa.Connection) -> list[Config]:
        """Every config, credentials opened.

        Raises:
            UnsealError: a credential was sealed under a key that is not in the key file.
        """
        return [self._from_row(row) for row in connection.execute(sa.select(configs))]

    def insert(self, config: Config) -> Change:
        """The change that adds a config. Refuses a name that is taken."""

        def change(connection: sa.Connection) -> None:
            try:
                connection.execute(sa.insert(configs).values(self._to_row(config)))
                revision.bump(connection)
            except sa.exc.IntegrityError as error:
                raise AlreadyExists(
                    "CONFIG_EXISTS",
                    f"{config.name} exists already. Change it with UpdateConfig, or choose another config_id.",
                    metadata={"config": config.name},
                ) from error

        return change

    def update(self, old: Config, new: Config, now: datetime) -> Change:
        """The change from one version of a config to the next.

        Refuses if the old one is no longer the current one, or another host or CA while leases live on it.
        """

        def change(connection: sa.Connection) -> None:
            moved = (old.kubernetes_host, old.kubernetes_ca_cert) != (
                new.kubernetes_host,
                new.kubernetes_ca_cert,
            )
            if moved:
                _refuse_live_leases(connection, old.name, now, _ANOTHER_CONFIG)
            changed = connection.execute(
                sa.update(configs)
                .where(configs.c.name == old.name, configs.c.etag == old.etag)
                .values(self._to_row(new))
            )
            if changed.rowcount == 0:
                raise etag_mismatch(old.name)
            revision.bump(connection)

        return change

    def refuse_move(self, config: Config, now: datetime, otherwise: KubevendError) -> Change:
        """The change that makes none: refused for the config's live leases where it has some, else as told."""

        def change(connection: sa.Connection) -> None:
            _refuse_live_leases(connection, config.name, now, _ANOTHER_CONFIG)
            raise otherwise

        return change

    def delete(self, config: Config, now: datetime) -> Change:
        """The change that removes a config. Refuses while roles or live leases use it."""

        def change(connection: sa.Connection) -> None:
            users = connection.scalars(
                sa.select(roles.c.name).where(roles.c.config == config.name).order_by(roles.c.name).limit(10)
            ).all()
            if users:
                raise FailedPrecondition(
                    "CONFIG_IN_USE",
                    f"{config.name} is used by {', '.join(users)}: delete these roles or give them another config.",
                    metadata={"config": config.name, "roles": ", ".join(users), "subject": config.name},
                )
            _refuse_live_leases(connection, config.name, now)
            deleted = connection.execute(
                sa.delete(configs).where(configs.c.name == config.name, configs.c.etag == config.etag)
            )
            if deleted.rowcount == 0:
                raise etag_mismatch(config.name)
            revision.bump(connection)

        return change

    def reseal(self, configs_now: Iterable[Config]) -> Change:
        """The change that seals every secret anew, under the first key of the keyring.

        Args:
            configs_now: all configs, as they are in the store. One that was changed meanwhile is sealed under that
                key already, and stays as it is.
        """

        def change(connection: sa.Connection) -> None:
            for config in configs_now:
                if config.credential.secret:
                    connection.execute(
                        sa.update(configs)
                        .where(configs.c.name == config.name, configs.c.etag == config.etag)
                        .values(sealed_secret=self._seal(config))
                    )

        return change

    def _seal(self, config: Config) -> bytes:
        secret = config.credential.secret
        return self._keyring.seal(secret.encode(), _purpose(config.credential.kind, config.name)) if secret else b""

    def _to_row(self, config: Config) -> dict[str, object]:
        credential = config.credential
        return {
            "name": config.name,
            "kubernetes_host": config.kubernetes_host,
            "kubernetes_ca_cert": config.kubernetes_ca_cert,
            "credential_kind": credential.kind,
            "token_file": credential.token_file,
            "certificate": credential.certificate,
            "certificate_file": credential.certificate_file,
            "private_key_file": credential.private_key_file,
            "sealed_secret": self._seal(config),
            "labels": msgspec.json.encode(dict(config.labels)).decode(),
            "etag": config.etag,
            "create_time": config.create_time,
            "update_time": config.update_time,
        }

    def _from_row(self, row: sa.Row[tuple[object, ...]]) -> Config:
        kind, sealed = row.credential_kind, row.sealed_secret
        secret = self._keyring.open(sealed, _purpose(kind, row.name)).decode() if sealed else ""
        return Config(
            name=row.name,
            # Some may be from before hosts were written in one form; their next version must not look like a move.
            kubernetes_host=normalized(row.kubernetes_host),
            kubernetes_ca_cert=row.kubernetes_ca_cert,
            credential=Credential(
                kind=kind,
                token_file=row.token_file,
                service_account_jwt=secret if kind == "service_account_jwt" else "",
                certificate=row.certificate,
                private_key=secret if kind == "client_certificate" else "",
                certificate_file=row.certificate_file,
                private_key_file=row.private_key_file,
            ),
            labels=tuple(sorted(msgspec.json.decode(row.labels, type=dict[str, str]).items())),
            etag=row.etag,
            create_time=row.create_time,
            update_time=row.update_time,
        )


def etag_mismatch(name: str) -> Aborted:
    """The refusal of a change to a version that is no longer the current one."""
    return Aborted(
        "ETAG_MISMATCH",
        f"{name} was changed by somebody else in the meantime: read it again, and make the change to what you get.",
        metadata={"name": name},
    )


def moved_configs(connection: sa.Connection, known: Collection[Config]) -> dict[Config, KubevendError]:
    """Those configs that are of another cluster by now, or are gone, each with the refusal of what rests on it.

    Another process can have moved one that had no leases, and this one not have heard of it yet. What it then made at
    the old cluster would be looked for at the new one, and told to be gone.

    Args:
        connection: an open transaction.
        known: the configs as they are known here.
    """
    query = sa.select(configs.c.name, configs.c.kubernetes_host, configs.c.kubernetes_ca_cert)
    found = connection.execute(query.where(configs.c.name.in_({config.name for config in known})))
    now = {row.name: (normalized(row.kubernetes_host), row.kubernetes_ca_cert) for row in found}
    moved: dict[Config, KubevendError] = {}
    for config in known:
        if config.name not in now:
            moved[config] = config_missing(config.name)
        elif now[config.name] != (config.kubernetes_host, config.kubernetes_ca_cert):
            moved[config] = Aborted(
                "CONFIG_MOVED",
                f"{config.name} was pointed at another cluster while the request was on its way, and nothing was made. "
                "Try again.",
                metadata={"config": config.name},
            )
    return moved


def require_config(connection: sa.Connection, name: str) -> None:
    """Refuse a role whose config is not there (any more).

    Raises:
        FailedPrecondition: no such config.
    """
    if connection.scalar(sa.select(configs.c.name).where(configs.c.name == name)) is None:
        raise config_missing(name)


def config_missing(name: str) -> FailedPrecondition:
    """The refusal of whatever needs a config that is not there, or that the caller may not use."""
    return FailedPrecondition(
        "CONFIG_NOT_FOUND",
        f"{name} does not exist, or you may not use it: make it with CreateConfig, or ask for the right to UseConfig.",
        metadata={"config": name, "subject": name},
    )


def config_not_found(name: str) -> NotFound:
    """The answer for a config that is not there, or that the caller may not see."""
    return NotFound(
        "CONFIG_NOT_FOUND",
        f"{name} does not exist, or you may not see it. ListConfigs shows those that you may see.",
        metadata={"config": name},
    )


def _refuse_live_leases(connection: sa.Connection, name: str, now: datetime, instead: str = "") -> None:
    live, end = leases.last_end(connection, name, now)
    standing = objects.count(connection, name)
    if not live and not standing:
        return
    last = rfc3339(end) if end is not None else ""
    if live:
        what = (
            f"{live} live leases; the last of them ends at {last}. Wait until then, or end them (RevokeLeases; "
            "ListLeases"
        )
    else:
        what = f"{standing} objects in its cluster that are still to be deleted. Wait for that (ListLeases"
    raise FailedPrecondition(
        "CONFIG_IN_USE",
        f"{name} has {what} with filter.config shows them){instead}.",
        metadata={
            "config": name,
            "live_leases": str(live),
            "objects": str(standing),
            "last_expire_time": last,
            "subject": name,
        },
    )


def _purpose(kind: str, name: str) -> str:
    return f"{kind} of {name}"

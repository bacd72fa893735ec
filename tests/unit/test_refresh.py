from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from kubevend_server.catalog import Catalog
from kubevend_server.config_rules import ConfigRules
from kubevend_server.configs import Config
from kubevend_server.encryption import Keyring
from kubevend_server.errors import KubevendError
from kubevend_server.refresh import CatalogRefresh
from kubevend_server.store import revision, roles
from kubevend_server.store.changes import Change, rehearse
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from tests.unit.builders import NOW, config, role
from tests.unit.world import FakeClusters, FakeConnection, token_reply

CONFIGS = ConfigStore(Keyring({"k1": b"1" * 32}))


class Counting(ConfigStore):
    """Counts how often it is read, and lets a test do something in between."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__(Keyring({"k1": b"1" * 32}))
        self.reads = 0
        self.afterwards: Callable[[], None] = lambda: None

    def all(self, connection: sa.Connection) -> list[Config]:
        """Every config."""
        self.reads += 1
        found = super().all(connection)
        self.afterwards()
        return found


class Here:
    """This process's view of a store that others write to."""

    def __init__(self, database: Database) -> None:
        """Start on what is there."""
        self.catalog = Catalog(database.read_now(CONFIGS.all), database.read_now(roles.all_roles))
        self.clusters = FakeClusters(FakeConnection(token_reply()), ConfigRules("", {}))
        self.store = Counting()
        self.refresh = CatalogRefresh(database, self.store, self.catalog, self.clusters)


def elsewhere(database: Database, *changes: Change) -> None:
    """Another process makes changes."""
    for change in changes:
        with database.writer.begin() as connection:
            change(connection)


async def test_what_others_write_is_taken_over(database: Database) -> None:
    """Configs and roles that another process makes, changes or deletes are so here too after the next look."""
    here = Here(database)
    old = role()
    new = replace(old, etag="e2", labels=())

    elsewhere(database, CONFIGS.insert(config()))
    await here.refresh.look()
    elsewhere(database, roles.insert(old))
    await here.refresh.look()
    made = (here.catalog.configs(), here.catalog.roles())
    elsewhere(database, roles.update(old, new))
    await here.refresh.look()
    changed = here.catalog.roles()
    elsewhere(database, roles.delete(new))
    await here.refresh.look()

    assert made == ([config()], [old])
    assert changed == [new]
    assert here.catalog.roles() == []


async def test_a_config_that_others_delete_is_not_called_any_more(database: Database) -> None:
    """The connections of a config that another process has deleted are closed."""
    elsewhere(database, CONFIGS.insert(config()))
    here = Here(database)
    connection = here.clusters.of(config())

    elsewhere(database, CONFIGS.delete(config(), NOW))
    await here.refresh.look()
    await here.clusters.close()

    assert here.catalog.configs() == []
    assert isinstance(connection, FakeConnection)
    assert connection.retired


async def test_nothing_is_read_while_nothing_changes(database: Database) -> None:
    """Between changes a look costs one number."""
    here = Here(database)

    for _ in range(3):
        await here.refresh.look()

    assert here.store.reads == 1


async def test_a_refused_change_and_a_rehearsal_are_none(database: Database) -> None:
    """What was rolled back does not make others read."""
    elsewhere(database, CONFIGS.insert(config()), roles.insert(role()))
    before = database.read_now(revision.current)

    elsewhere(database, rehearse(roles.delete(role()), only=True))
    with pytest.raises(KubevendError):
        elsewhere(database, roles.delete(role(etag="another")))

    assert database.read_now(revision.current) == before


async def test_a_change_of_ones_own_is_never_lost(database: Database) -> None:
    """What this process has committed while the store was read stays, and is read again at the next look."""
    here = Here(database)
    elsewhere(database, CONFIGS.insert(config()))

    here.store.afterwards = lambda: here.catalog.put(role())
    await here.refresh.look()
    kept = here.catalog.roles()
    here.store.afterwards = lambda: None
    elsewhere(database, roles.insert(role()))
    await here.refresh.look()

    assert kept == [role()]
    assert (here.catalog.configs(), here.catalog.roles()) == ([config()], [role()])


def test_the_first_revision_is_none(database: Database) -> None:
    """A new store begins at 0."""
    assert database.read_now(revision.current) == 0

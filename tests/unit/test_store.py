from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

from kubevend_server.configs import Config, Credential
from kubevend_server.encryption import Keyring, UnsealError
from kubevend_server.errors import Aborted, AlreadyExists, FailedPrecondition, KubevendError
from kubevend_server.leases import Lease, LeaseFilter, LeaseToken
from kubevend_server.roles import Role
from kubevend_server.store import leases, migrations, roles
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from kubevend_server.store.leases import LeaseCounts
from kubevend_server.store.schema import Moment, metadata
from tests.unit.builders import NOW, SECRET, config, lease, role

HOUR = timedelta(hours=1)
CONFIGS = ConfigStore(Keyring({"k1": b"1" * 32}))


def _do(database: Database, *changes: Callable[[sa.Connection], None]) -> None:
    with database.writer.begin() as connection:
        for change in changes:
            change(connection)


def _sql(statement: str) -> Callable[[sa.Connection], None]:
    def change(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    return change


def _refusal(database: Database, change: Callable[[sa.Connection], None]) -> tuple[type[KubevendError], str]:
    with pytest.raises(KubevendError) as refusal:
        _do(database, change)
    return type(refusal.value), refusal.value.reason


def _add(*added: Lease) -> Callable[[sa.Connection], None]:
    def change(connection: sa.Connection) -> None:
        for each in added:
            for table, row in leases.rows(each):
                connection.execute(sa.insert(table).values(row))

    return change


def _all(database: Database) -> tuple[list[Config], list[Role]]:
    return database.read_now(CONFIGS.all), database.read_now(roles.all_roles)


# The tables.


def _other_default(*compared: Any) -> bool:
    """Whether a default in the database is another than the schema's; Alembic itself takes ('') for another one."""
    _context, _column, _schema_column, found, _clause, wanted = compared
    return bool((found and found.strip("()'")) != (None if wanted is None else wanted.strip("'")))


def test_the_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    """Between what the migrations have made and what the schema says Alembic finds no difference, types included."""
    with database.writer.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": _other_default}
        )
        assert compare_metadata(context, metadata) == []
        indexes = {
            (table, index["name"], tuple(index["column_names"]))
            for table in metadata.tables
            for index in sa.inspect(connection).get_indexes(table)
        }
    assert indexes == {
        (table.name, index.name, tuple(column.name for column in index.columns))
        for table in metadata.tables.values()
        for index in table.indexes
    }


def test_the_latest_migration_is_the_newest_file() -> None:
    """`LATEST`, by which a start knows that there is nothing to do, is the one head of the migrations."""
    script = alembic.config.Config()
    script.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(script).get_heads() == [migrations.LATEST]


def test_migrating_again_changes_nothing(database: Database) -> None:
    """A second start leaves the store as it is."""
    _do(database, CONFIGS.insert(config()))
    database.migrate()
    assert _all(database) == ([config()], [])


def _of_the_first_revision(file: Path) -> Database:
    database = Database(f"sqlite:///{file}")
    script = alembic.config.Config()
    script.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with database.writer.begin() as connection:
        script.attributes["connection"] = connection
        alembic.command.upgrade(script, "0001")
    return database


def _columns(database: Database) -> set[str]:
    return {column["name"] for column in sa.inspect(database.writer).get_columns("configs")}


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """A migration that breaks off between two statements leaves the tables as they were and says why, and the next
    start makes it whole.
    """
    database = _of_the_first_revision(tmp_path / "old.sqlite")
    before = _columns(database)
    # Columns can be added beside a view of nothing, and not be renamed.
    _do(database, _sql("CREATE VIEW broken AS SELECT * FROM missing"))
    with pytest.raises(ValueError, match="cannot be brought up to date") as refusal:
        database.migrate()
    assert str(refusal.value) == (
        f"The database {tmp_path / 'old.sqlite'} cannot be brought up to date, and stays as it was: "
        "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) error in view broken: no such table: "
        "main.missing. Put that right and start again."
    )
    assert _columns(database) == before
    _do(database, _sql("DROP VIEW broken"))
    database.migrate()
    assert _columns(database) == {column.name for column in metadata.tables["configs"].columns}
    database.close()


def test_two_servers_may_migrate_at_once(tmp_path: Path) -> None:
    """Of two that bring one store up to date together both succeed."""
    _of_the_first_revision(tmp_path / "old.sqlite").close()
    databases = [Database(f"sqlite:///{tmp_path / 'old.sqlite'}") for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(Database.migrate, databases))
    for database in databases:
        assert _columns(database) == {column.name for column in metadata.tables["configs"].columns}
        database.close()


def test_a_store_of_a_newer_version_is_refused(database: Database) -> None:
    """A store whose revision this version does not know is left alone, and the message says what to do."""
    _do(database, _sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ValueError, match="newer") as refusal:
        database.migrate()
    assert str(refusal.value) == (
        f"The database {database.writer.url.database} was written by a newer version of kubevend-server (revision "
        f"9999, and this one knows {migrations.LATEST}): start that version, or put a backup back."
    )


def test_what_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    """A file that holds something else is refused without SQLAlchemy's statement and link."""
    file = tmp_path / "text"
    file.write_text("no database " * 100)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(ValueError, match="cannot be used") as refusal:
        database.migrate()
    told = "(sqlite3.DatabaseError) file is not a database"
    assert str(refusal.value) == f"The database {file} cannot be used: {told}"


def test_an_error_of_the_store_shows_no_values(database: Database) -> None:
    """What goes to the log when a statement fails has the statement, and never its parameters."""
    statement = sa.text("INSERT INTO nothing VALUES (:secret)").bindparams(secret=SECRET)
    for run in (lambda c: _do(database, c), database.read_now):
        with pytest.raises(sa.exc.OperationalError) as failure:
            run(lambda connection: connection.execute(statement) and None)
        assert "INSERT INTO nothing" in str(failure.value)
        assert SECRET not in str(failure.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "postgresql://localhost/x", "sqlite:///"])
def test_a_url_that_is_no_file_is_refused(url: str) -> None:
    """Only a file in SQLite is a store so far."""
    with pytest.raises(ValueError, match=r"store\.url is"):
        Database(url)


def test_the_file_is_durable_and_consistent(database: Database) -> None:
    """Every connection writes ahead, syncs fully and holds foreign keys."""
    for query in (database.read_now, lambda q: q(database.writer.connect())):
        found = query(
            lambda c: [
                c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        )
        assert found == ["wal", 2, 1]


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_moment_is_exact(moment: datetime) -> None:
    """A moment comes back as it went in, to the microsecond."""
    column, dialect = Moment(), sa.create_engine("sqlite://").dialect
    assert column.process_result_value(column.process_bind_param(moment, dialect), dialect) == moment


# Configs.


@pytest.mark.parametrize(
    "of",
    [
        config(),
        config(kubernetes_ca_cert="PEM", credential=Credential("token_file", token_file="/tokens/a")),
        config(kubernetes_host="", credential=Credential("in_cluster")),
        config(credential=Credential("client_certificate", certificate="PEM", private_key=SECRET)),
        config(
            credential=Credential("client_certificate_files", certificate_file="/run/a.crt", private_key_file="/run/a")
        ),
    ],
    ids=lambda of: of.credential.kind,
)
def test_a_config_comes_back_as_it_went_in(database: Database, of: Config) -> None:
    """Every kind of config is read as it was written, its credential opened."""
    _do(database, CONFIGS.insert(of))
    assert _all(database) == ([of], [])


def test_a_host_of_before_is_read_in_one_form(database: Database) -> None:
    """A config that was stored before hosts had one form is read in it, so that its next version is no move."""
    _do(database, CONFIGS.insert(config(kubernetes_host="https://API.example.com:0443")))
    assert _all(database) == ([config(kubernetes_host="https://api.example.com")], [])


SEALED = [
    Credential("service_account_jwt", service_account_jwt=SECRET),
    Credential("client_certificate", certificate="PEM", private_key=SECRET),
]


@pytest.mark.parametrize("credential", SEALED, ids=lambda of: of.kind)
def test_a_stored_secret_is_sealed(database: Database, tmp_path: Path, credential: Credential) -> None:
    """The database's files hold a token or a private key nowhere, neither as it is nor in hexadecimal, and its value
    differs from one write to the next.
    """
    stored = config(credential=credential)
    _do(database, CONFIGS.insert(stored), CONFIGS.insert(replace(stored, name="configs/b")))
    sealed = database.read_now(lambda c: list(c.scalars(sa.select(metadata.tables["configs"].c.sealed_secret))))
    assert len(set(sealed)) == 2
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"configs/default" in everything
    assert SECRET.encode() not in everything
    assert SECRET.encode().hex().encode() not in everything


@pytest.mark.parametrize("credential", SEALED, ids=lambda of: of.kind)
def test_a_sealed_secret_belongs_to_its_config(database: Database, credential: Credential) -> None:
    """Whoever can write to the file cannot have one config's credential used by another."""
    stored = config(credential=credential)
    other = replace(stored, name="configs/evil", kubernetes_host="https://evil.com")
    _do(database, CONFIGS.insert(stored), CONFIGS.insert(other))
    table = metadata.tables["configs"]
    stolen = sa.select(table.c.sealed_secret).where(table.c.name == "configs/default").scalar_subquery()
    with database.writer.begin() as connection:
        connection.execute(sa.update(table).where(table.c.name == other.name).values(sealed_secret=stolen))
    with pytest.raises(UnsealError):
        database.read_now(CONFIGS.all)


def test_a_sealed_secret_belongs_to_its_kind(database: Database) -> None:
    """Whoever can write to the file cannot have a private key sent as a token, which would show it."""
    _do(database, CONFIGS.insert(config(credential=SEALED[1])))
    table = metadata.tables["configs"]
    with database.writer.begin() as connection:
        connection.execute(sa.update(table).values(credential_kind="service_account_jwt"))
    with pytest.raises(UnsealError):
        database.read_now(CONFIGS.all)


def test_resealing_leaves_the_old_key_nothing(database: Database) -> None:
    """What was sealed under an old key opens with the new one alone afterwards, and nothing else of a config changes;
    one that has no secret, or was changed meanwhile, is left as it is.
    """
    keyring = Keyring({"old": b"0" * 32})
    store = ConfigStore(keyring)
    found = [
        config(name="configs/a", credential=SEALED[0]),
        config(name="configs/b", credential=SEALED[1]),
        config(name="configs/c", kubernetes_host="", credential=Credential("in_cluster")),
    ]
    _do(database, *map(store.insert, found))
    keyring.replace({"new": b"1" * 32})
    _do(database, store.reseal([*found[:1], replace(found[1], etag="another"), found[2]]))
    table = metadata.tables["configs"]
    sealed = sa.select(table.c.sealed_secret).order_by(table.c.name)
    assert [value[:4] for value in database.read_now(lambda c: list(c.scalars(sealed)))] == [b"new:", b"old:", b""]
    _do(database, store.reseal(found))
    alone = ConfigStore(Keyring({"new": b"1" * 32}))
    assert sorted(database.read_now(alone.all), key=lambda each: each.name) == found


def test_a_token_that_was_sealed_before_client_certificates_is_still_read(tmp_path: Path) -> None:
    """A database of the first revision comes up to date with its configs as they were, and the sealed token opens."""
    database = _of_the_first_revision(tmp_path / "old.sqlite")
    sealed = Keyring({"k1": b"1" * 32}).seal(SECRET.encode(), "service_account_jwt of configs/default")
    in_cluster = config(name="configs/own", kubernetes_host="", credential=Credential("in_cluster"))
    before = [(config(), sealed), (in_cluster, b"")]
    with database.writer.begin() as connection:
        old = sa.Table("configs", sa.MetaData(), autoload_with=connection)
        for each, secret in before:
            moment = Moment().process_bind_param(NOW, connection.dialect)
            connection.execute(
                sa.insert(old).values(
                    name=each.name,
                    kubernetes_host=each.kubernetes_host,
                    kubernetes_ca_cert="",
                    credential_kind=each.credential.kind,
                    token_file="",
                    sealed_jwt=secret,
                    etag="e1",
                    create_time=moment,
                    update_time=moment,
                )
            )
    database.migrate()
    assert _all(database) == ([config(), in_cluster], [])
    newer = config(credential=SEALED[1], etag="e2")
    _do(database, CONFIGS.update(config(), newer, NOW))
    assert _all(database) == ([newer, in_cluster], [])
    database.close()


def test_a_config_is_changed_in_its_version_only(database: Database) -> None:
    """An update and a deletion hold for the version that was read; for another they are refused and change nothing."""
    _do(database, CONFIGS.insert(config()))
    newer = config(kubernetes_host="https://other", etag="e2", update_time=NOW + HOUR)
    _do(database, CONFIGS.update(config(), newer, NOW))
    assert _all(database) == ([newer], [])
    assert _refusal(database, CONFIGS.update(config(), config(etag="e3"), NOW)) == (Aborted, "ETAG_MISMATCH")
    assert _refusal(database, CONFIGS.delete(config(), NOW)) == (Aborted, "ETAG_MISMATCH")
    assert _all(database) == ([newer], [])
    _do(database, CONFIGS.delete(newer, NOW))
    assert _all(database) == ([], [])
    assert _refusal(database, CONFIGS.delete(newer, NOW)) == (Aborted, "ETAG_MISMATCH")


def test_a_configs_name_is_taken_once(database: Database) -> None:
    """A second config of one name is refused."""
    _do(database, CONFIGS.insert(config()))
    assert _refusal(database, CONFIGS.insert(config(etag="e2"))) == (AlreadyExists, "CONFIG_EXISTS")
    assert _all(database) == ([config()], [])


def test_a_config_with_roles_stays(database: Database) -> None:
    """A config that roles use cannot be deleted, and the refusal names them."""
    _do(database, CONFIGS.insert(config()), roles.insert(role()), roles.insert(role(name="roles/b")))
    with pytest.raises(FailedPrecondition) as refusal:
        _do(database, CONFIGS.delete(config(), NOW))
    assert (refusal.value.reason, refusal.value.metadata) == (
        "CONFIG_IN_USE",
        {"config": "configs/default", "roles": "roles/b, roles/ci", "subject": "configs/default"},
    )


@pytest.mark.parametrize("change", [{"kubernetes_host": "https://other"}, {"kubernetes_ca_cert": "other"}])
def test_a_config_with_live_leases_stays_where_it_is(database: Database, change: dict[str, str]) -> None:
    """While a lease lives, its config keeps host and CA and cannot be deleted; its credential can change; once the
    lease has ended, all can.
    """
    _do(database, CONFIGS.insert(config()), _add(lease(1), lease(2, config="configs/other")))
    moved = config(etag="e2", **change)
    in_use = (FailedPrecondition, "CONFIG_IN_USE")
    just_before, end = NOW + HOUR - timedelta(microseconds=1), NOW + HOUR
    assert _refusal(database, CONFIGS.update(config(), moved, just_before)) == in_use
    assert _refusal(database, CONFIGS.delete(config(), just_before)) == in_use
    fresh = config(credential=Credential("service_account_jwt", service_account_jwt="fresh"), etag="e1")
    _do(database, CONFIGS.update(config(), fresh, just_before))
    _do(database, CONFIGS.update(fresh, moved, end))
    _do(database, CONFIGS.delete(moved, end))


def test_live_leases_tell_when_the_last_of_them_ends(database: Database) -> None:
    """Whoever waits for leases is told until when, and who wants to move a config, which other way there is; only
    without leases does a move that lacks something tell that.
    """
    _do(database, CONFIGS.insert(config()))
    otherwise = AlreadyExists("OTHERWISE", "Otherwise.")
    assert _refusal(database, CONFIGS.refuse_move(config(), NOW, otherwise)) == (AlreadyExists, "OTHERWISE")
    later = lease(3, config="configs/other", expire_time=NOW + 3 * HOUR)
    _do(database, _add(lease(1), lease(2, expire_time=NOW + 2 * HOUR), later))
    told = (
        "configs/default has 2 live leases; the last of them ends at 2026-05-04T14:00:00.123456Z. Wait until then, "
        "or end them (RevokeLeases; ListLeases with filter.config shows them)"
    )
    facts = {
        "config": "configs/default",
        "live_leases": "2",
        "objects": "0",
        "last_expire_time": "2026-05-04T14:00:00.123456Z",
        "subject": "configs/default",
    }
    moved, way = (
        config(kubernetes_host="https://other", etag="e2"),
        ", or make another config and point the roles at it",
    )
    for change, instead in (
        (CONFIGS.delete(config(), NOW), ""),
        (CONFIGS.update(config(), moved, NOW), way),
        (CONFIGS.refuse_move(config(), NOW, otherwise), way),
    ):
        with pytest.raises(FailedPrecondition) as refusal:
            _do(database, change)
        assert (refusal.value.message, refusal.value.metadata) == (f"{told}{instead}.", facts)


# Roles.


def test_a_role_comes_back_as_it_went_in(database: Database) -> None:
    """A role with everything and one with nothing are read as they were written."""
    bare = Role("roles/bare", create_time=NOW, update_time=NOW, etag="e")
    full = role(allowed_audiences=("a", "b"), default_audiences=("b",), ttl=timedelta(seconds=601))
    _do(database, CONFIGS.insert(config()), roles.insert(full), roles.insert(bare))
    assert sorted(_all(database)[1], key=lambda r: r.name) == [bare, full]


def test_a_role_is_changed_in_its_version_only(database: Database) -> None:
    """An update and a deletion hold for the version that was read; for another they are refused and change nothing."""
    newer = role(allowed_namespaces=("tools",), etag="e2", update_time=NOW + HOUR)
    _do(database, CONFIGS.insert(config()), roles.insert(role()), roles.update(role(), newer))
    assert _all(database)[1] == [newer]
    assert _refusal(database, roles.update(role(), role(etag="e3"))) == (Aborted, "ETAG_MISMATCH")
    assert _refusal(database, roles.delete(role())) == (Aborted, "ETAG_MISMATCH")
    assert _all(database)[1] == [newer]
    _do(database, roles.delete(newer))
    assert _all(database)[1] == []


def test_a_roles_name_is_taken_once(database: Database) -> None:
    """A second role of one name is refused."""
    _do(database, CONFIGS.insert(config()), roles.insert(role()))
    assert _refusal(database, roles.insert(role(etag="e2"))) == (AlreadyExists, "ROLE_EXISTS")


def test_a_role_needs_its_config(database: Database) -> None:
    """A role can neither be made with nor moved to a config that is not there."""
    missing = (FailedPrecondition, "CONFIG_NOT_FOUND")
    assert _refusal(database, roles.insert(role())) == missing
    _do(database, CONFIGS.insert(config()), roles.insert(role()))
    assert _refusal(database, roles.update(role(), role(config="configs/none", etag="e2"))) == missing


# Leases.


def test_a_lease_comes_back_as_it_went_in(database: Database) -> None:
    """A lease is read with all of its tokens, the oldest first, and one that is not there is None."""
    tokens = (LeaseToken("a", "x", NOW, NOW + HOUR), LeaseToken("b", "y", NOW + HOUR, NOW + 2 * HOUR))
    stored = lease(audiences=("a", "b"), tokens=tokens)
    _do(database, _add(replace(stored, tokens=tokens[::-1]), lease(2)))
    assert database.read_now(lambda c: leases.get(c, stored.name)) == stored
    assert database.read_now(lambda c: leases.get(c, lease(3).name)) is None


FILTERS: list[tuple[dict[str, Any], set[int]]] = [
    ({}, {1, 2, 3, 4}),
    ({"role": "roles/ci"}, {1, 3, 4}),
    ({"role": "roles/c"}, set()),
    ({"config": "configs/other"}, {3}),
    ({"namespace": "tools"}, {4}),
    ({"service_account": "builder"}, {4}),
    ({"caller": "admin://local/bootstrap"}, {2}),
    ({"state": "ACTIVE"}, {1, 2, 4}),
    ({"state": "EXPIRED"}, {3}),
    ({"expire_before": NOW + HOUR}, {3}),
    ({"expire_after": NOW + HOUR}, {1, 2, 4}),
    ({"expire_after": NOW + HOUR, "expire_before": NOW + 2 * HOUR}, {1, 4}),
    ({"role": "roles/ci", "state": "ACTIVE", "namespace": "apps"}, {1}),
    ({"role": "roles/b", "state": "EXPIRED"}, set()),
]


@pytest.mark.parametrize(("narrowed", "expected"), FILTERS)
def test_a_filter_narrows_by_all_that_it_has(database: Database, narrowed: dict[str, Any], expected: set[int]) -> None:
    """Whatever a filter gives must hold; what it leaves out does not matter. A lease ends at its very moment.

    In which order they come, test_lease_lists.py has.
    """
    stored = [
        lease(1),
        lease(2, role="roles/b", caller="admin://local/bootstrap", expire_time=NOW + 2 * HOUR),
        lease(3, config="configs/other", expire_time=NOW, stored_state="EXPIRED"),
        lease(4, namespace="tools", service_account="builder"),
    ]
    _do(database, _add(*stored))
    found = database.read_now(lambda c: leases.page(c, LeaseFilter(**narrowed), "", 100)).found
    assert sorted(found, key=lambda each: each.name) == [each for each in stored if int(each.name[-26:]) in expected]
    assert all((each.state(NOW) == "ACTIVE") == (each.expire_time > NOW) for each in found)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_together_are_the_list(database: Database, limit: int) -> None:
    """Page after page, every lease comes once, the newest first."""
    stored = [lease(number) for number in range(1, 8)]
    _do(database, _add(*stored))
    found: list[Lease] = []

    def page(connection: sa.Connection) -> list[Lease]:
        return leases.page(connection, LeaseFilter(), found[-1].name if found else "", limit).found

    while next_page := database.read_now(page):
        assert len(next_page) <= limit
        found += next_page
    assert found == stored[::-1]


def test_live_leases_are_counted(database: Database) -> None:
    """The count and the next end are those of the leases that have not ended."""
    assert database.read_now(lambda c: leases.count(c, NOW)) == LeaseCounts(0, None, 0)
    _do(database, _add(lease(1), lease(2, expire_time=NOW + 2 * HOUR), lease(3, expire_time=NOW)))
    _do(database, _add(lease(4, stored_state="REVOKING")))
    assert database.read_now(lambda c: leases.count(c, NOW)) == LeaseCounts(2, NOW + HOUR, 1)
    assert database.read_now(lambda c: leases.count(c, NOW + HOUR)) == LeaseCounts(1, NOW + 2 * HOUR, 1)
    ends = [database.read_now(lambda c, n=n: leases.last_end(c, n, NOW)) for n in ("configs/default", "configs/x")]  # type: ignore[misc]
    assert ends == [(3, NOW + 2 * HOUR), (0, None)]


async def test_a_read_runs_beside_a_write(database: Database) -> None:
    """While a transaction is open, readers see the state before it, and do not wait."""
    with database.writer.begin() as connection:
        CONFIGS.insert(config())(connection)
        assert await database.read(CONFIGS.all) == []
    assert await database.read(CONFIGS.all) == [config()]

from __future__ import annotations

import base64
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from kubevend_server.audit.log import AuditLog
from kubevend_server.catalog import Catalog
from kubevend_server.configs import Config, Credential
from kubevend_server.encryption import Keyring, UnsealError, parse_keys
from kubevend_server.journal import Journal
from kubevend_server.rotation import StoreKeyRotation
from kubevend_server.store.configs import ConfigStore
from kubevend_server.store.database import Database
from tests.unit.builders import NOW, SECRET, client_certificate, config

OLD, NEW, THIRD = (f"{name}:{base64.b64encode(name.encode() * 16).decode()}\n" for name in ("k1", "k2", "k3"))
CONFIGS = [
    config(name="configs/a"),
    config(name="configs/b", credential=client_certificate().credential),
    config(name="configs/c", kubernetes_host="", credential=Credential("in_cluster")),
]


class Rotated:
    """A store with three configs that are sealed under the old key, and what watches its key file."""

    def __init__(self, file: Path, database: Database, audit: AuditLog) -> None:
        """Make it."""
        self.file = file
        self.database = database
        file.write_text(OLD)
        self.keyring = Keyring(parse_keys(OLD, file))
        self.store = ConfigStore(self.keyring)
        self.catalog = Catalog(CONFIGS, [])
        with database.writer.begin() as connection:
            for each in CONFIGS:
                self.store.insert(each)(connection)
        journal = Journal(database, audit, patience=0.1)
        self.rotation = StoreKeyRotation(file, self.keyring, journal, self.store, self.catalog)

    async def look(self) -> list[dict[str, Any]]:
        """Look at the file, and say what the log was told."""
        with capture_logs() as told:
            await self.rotation.look()
        return [{key: value for key, value in line.items() if key not in {"log_level", "hint"}} for line in told]

    def write(self, *keys: str) -> None:
        """Put these lines into the file, as an editor does: in a new one of the same name."""
        draft = self.file.with_name("draft")
        draft.write_text("".join(keys))
        os.replace(draft, self.file)  # noqa: PTH105 - rename(2)

    def write_bytes(self, content: bytes) -> None:
        """Put something else into the file, which must not be there."""
        assert not self.file.exists()
        self.file.write_bytes(content)

    def remove(self) -> None:
        """Remove the file."""
        self.file.unlink()

    def opens_with(self, *keys: str) -> bool:
        """Whether all is read with these keys alone, as the next start would."""
        alone = ConfigStore(Keyring(parse_keys("".join(keys), self.file)))
        try:
            found = self.database.read_now(alone.all)
        except UnsealError:
            return False
        assert sorted(found, key=lambda each: each.name) == self.catalog.configs()
        return True


@pytest.fixture
def rotated(tmp_path: Path, database: Database, audit: AuditLog) -> Rotated:
    """A store whose key can be rotated."""
    return Rotated(tmp_path / "store.key", database, audit)


def _told(*keys: str) -> list[dict[str, Any]]:
    return [{"event": "store_key_rotated", "keys": list(keys), "sealed_under": keys[0]}]


async def test_a_file_that_stays_changes_nothing(rotated: Rotated) -> None:
    """As long as the file says the same, nothing is sealed anew, also where it was written again."""
    everything = sa.text("SELECT name, sealed_secret FROM configs ORDER BY name")
    before = rotated.database.read_now(lambda c: c.execute(everything).all())
    assert await rotated.look() == []
    rotated.write(OLD)
    assert await rotated.look() == []
    assert rotated.database.read_now(lambda c: c.execute(everything).all()) == before


async def test_a_new_key_on_top_seals_everything(rotated: Rotated) -> None:
    """After a new key came first, what was sealed opens with it alone, and so does what is sealed from then on; then
    the old key may go.
    """
    rotated.write(NEW, OLD)
    assert await rotated.look() == _told("k2", "k1")
    assert rotated.opens_with(NEW)
    assert not rotated.opens_with(OLD)
    assert rotated.keyring.seal(b"x", "x").startswith(b"k2:")
    rotated.write(NEW)
    assert await rotated.look() == _told("k2")
    assert rotated.opens_with(NEW)
    assert await rotated.look() == []


async def test_a_new_key_below_changes_nothing_yet(rotated: Rotated) -> None:
    """A key that comes second opens and does not seal."""
    rotated.write(OLD, NEW)
    assert await rotated.look() == _told("k1", "k2")
    assert rotated.opens_with(OLD)
    assert not rotated.opens_with(NEW)


async def test_the_old_key_may_go_at_once(rotated: Rotated) -> None:
    """Where the new key takes the place of the old one, nothing is lost: the server knows what was sealed."""
    rotated.write(NEW)
    assert await rotated.look() == _told("k2")
    assert rotated.opens_with(NEW)


async def test_a_key_of_the_same_id_is_another_key(rotated: Rotated) -> None:
    """A new key under the old one's id is a rotation too."""
    other = NEW.replace("k2:", "k1:")
    rotated.write(other)
    assert await rotated.look() == _told("k1")
    assert rotated.opens_with(other)
    assert not rotated.opens_with(OLD)


async def test_keys_rotate_again_and_again(rotated: Rotated) -> None:
    """One rotation follows another, and back."""
    for keys, ids in (((NEW, OLD), "k2 k1"), ((THIRD, NEW), "k3 k2"), ((OLD,), "k1")):
        rotated.write(*keys)
        assert await rotated.look() == _told(*ids.split())
        assert rotated.opens_with(keys[0])


@pytest.mark.parametrize("broken", ["", "\n", "garbage", NEW + "k3:AAAA", NEW + NEW, NEW[:20]])
async def test_a_broken_file_is_told_once(rotated: Rotated, broken: str) -> None:
    """A file that holds no keys, or is half written, leaves them as they were and is told once, without what it holds;
    as soon as it is whole again it counts.
    """
    rotated.write(broken)
    (told,) = await rotated.look()
    assert (told["event"], told["file"]) == ("store_key_unusable", str(rotated.file))
    assert not any(line and line in told["error"] for line in broken.split())
    assert await rotated.look() == []
    assert await rotated.look() == []
    assert rotated.opens_with(OLD)
    rotated.write(NEW, OLD)
    assert await rotated.look() == _told("k2", "k1")
    assert rotated.opens_with(NEW)


async def test_a_missing_file_is_told_once(rotated: Rotated) -> None:
    """A file that is gone, or no text, leaves the keys as they were, is not made anew, and each fault is told once."""
    rotated.remove()
    assert [line["event"] for line in await rotated.look()] == ["store_key_unusable"]
    assert await rotated.look() == []
    rotated.write_bytes(b"\xff")
    assert [line["event"] for line in await rotated.look()] == ["store_key_unusable"]
    assert await rotated.look() == []
    rotated.write(NEW)
    assert await rotated.look() == _told("k2")
    assert rotated.opens_with(NEW)


async def test_a_locked_store_is_tried_again(rotated: Rotated) -> None:
    """While somebody else has the store locked the keys stay as they were, nothing is half sealed, and the next look
    tries again.
    """
    rotated.write(NEW)
    other = sqlite3.connect(str(rotated.database.writer.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        assert [line["event"] for line in await rotated.look()] == ["store_not_resealed"]
        assert rotated.keyring.seal(b"x", "x").startswith(b"k1:")
    other.execute("ROLLBACK")
    other.close()
    assert rotated.opens_with(OLD)
    assert await rotated.look() == _told("k2")
    assert rotated.opens_with(NEW)


async def test_what_was_changed_meanwhile_is_not_undone(rotated: Rotated) -> None:
    """A config that was changed in the store, and is not yet known to be, keeps its new secret."""
    newer: Config = replace(
        CONFIGS[0], credential=Credential("service_account_jwt", service_account_jwt=SECRET + "2"), etag="e2"
    )
    with rotated.database.writer.begin() as connection:
        rotated.store.update(CONFIGS[0], newer, NOW)(connection)
    rotated.write(NEW, OLD)
    await rotated.look()
    rotated.catalog.put(newer)
    assert rotated.opens_with(NEW, OLD)


async def test_no_key_is_logged(rotated: Rotated) -> None:
    """Whatever is told of a rotation, no key is."""
    rotated.write(NEW, OLD)
    told = str(await rotated.look())
    rotated.write(NEW, "k9:" + OLD.partition(":")[2][:-9])
    told += str(await rotated.look())
    assert all(line.partition(":")[2].strip()[:10] not in told for line in (OLD, NEW))

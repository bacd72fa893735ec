"""What the unit tests share: a database, an audit log and a world, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from kubevend_server.audit.chain import Head
from kubevend_server.audit.log import AuditLog
from kubevend_server.store.database import Database
from tests.unit.builders import AUDIT_KEY, clock
from tests.unit.world import World, migrated

# Most requests that can be made up are refused, so properties of what is granted filter much; how many examples
# count does not change by that.
settings.register_profile("unit", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
settings.load_profile("unit")

# The process log is not what is tested here, and pretty tracebacks take a second each.
structlog.configure(
    processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An SQLite file with all tables."""
    opened = migrated(tmp_path / "kubevend.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    """A new audit log, in `audit.jsonl`."""
    log = AuditLog(tmp_path / "audit.jsonl", AUDIT_KEY, Head(), clock)
    yield log
    log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server without its sockets: everything that a call passes through, and a cluster that is none."""
    made = World(tmp_path)
    yield made
    made.close()

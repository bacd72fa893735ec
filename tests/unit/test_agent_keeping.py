"""One output of the agent: its token, its files, and how it stands."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from kubevend.agent import metrics
from kubevend.agent.actions import Action, Counts
from kubevend.agent.clusters import Place
from kubevend.agent.config import Filled, Kubeconfig, Output, Request, TokenFile
from kubevend.agent.health import Beat
from kubevend.agent.keeping import Keeper
from kubevend.agent.log import Log
from kubevend.agent.templates import Template
from kubevend.errors import Denied, KubevendError, Unavailable
from kubevend.tokens import Secret, Token

AWAY = Unavailable("away", code="UNAVAILABLE", reason="AWAY")
DENIED = Denied("no", code="PERMISSION_DENIED", reason="ACCESS_DENIED")
PLACE = Place("https://cluster:6443", b"-----CA-----")


class Told:
    """An action that counts, and does nothing."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.times = 0

    def fire(self) -> None:
        """Count."""
        self.times += 1

    def tick(self) -> None:
        """Nothing is running."""


class World:
    """An output in a folder, a clock to be set, and what was told and logged."""

    def __init__(self, output: Output) -> None:
        self.time = 0.0
        self.told = Told()
        self.logged = io.StringIO()
        self.file = output.content.file
        self.keeper = Keeper(output, cast("Action", self.told), Log(self.logged), lambda: self.time)

    def renew(self, name: str = "one", life: float = 600) -> None:
        """Bring a token."""
        self.keeper.renewed(token(name), self.time + life)

    def at(self, seconds: float) -> None:
        """Let it be so late."""
        self.time = seconds
        self.keeper.tick()

    def content(self) -> str | None:
        """What is in the file; None where there is none."""
        return self.file.read_text() if self.file.exists() else None

    def events(self) -> list[str]:
        """The kinds of what was logged."""
        return [json.loads(line)["event"] for line in self.logged.getvalue().splitlines()]


def token(name: str) -> Token:
    """A token with a lease of its own."""
    return Token(
        secret=Secret(f"eyJ.{name}"),
        expiration=datetime(2026, 1, 1, 12, tzinfo=UTC),
        token_expiration=datetime(2026, 1, 1, 13, tzinfo=UTC),
        granted_ttl=timedelta(seconds=600),
        namespace="apps",
        service_account="demo",
        audiences=("a", "b"),
        lease=f"leases/{name}",
        jti=f"jti-{name}",
    )


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """An output with a token."""
    return Output("out", Request("roles/ci"), TokenFile(tmp_path / "token"))


def test_each_token_is_written_and_told(output: Output) -> None:
    """Each token is in the file when it is told of; the log has its lease and no token."""
    world = World(output)
    assert (world.keeper.state, world.keeper.seconds_left) == ("no token yet", 0)
    world.renew()
    world.at(100)
    assert (world.content(), world.told.times, world.keeper.state) == ("eyJ.one", 1, "good for 500 s")
    world.renew("two")
    assert (world.content(), world.told.times, world.keeper.tally.renewals) == ("eyJ.two", 2, 2)
    assert "eyJ" not in world.logged.getvalue()
    assert "leases/two" in world.logged.getvalue()


@pytest.mark.parametrize("removes", [False, True])
def test_a_token_that_runs_out(output: Output, removes: bool) -> None:
    """A token that has run out is no longer good, and removed where that is wanted; until then an outage is told."""
    world = World(replace(output, remove_expired=removes))
    world.renew()
    world.keeper.failed(AWAY)
    world.at(599)
    assert (world.content(), world.keeper.state) == ("eyJ.one", "good for 1 s; no next one yet: AWAY: away")
    world.at(600)
    assert (world.keeper.seconds_left, world.keeper.state) == (0, "AWAY: away")
    assert (world.content(), world.told.times) == ((None, 2) if removes else ("eyJ.one", 1))
    world.renew("two")
    assert (world.content(), world.keeper.state) == ("eyJ.two", "good for 600 s")


@pytest.mark.parametrize("removes", [False, True])
@pytest.mark.parametrize(("error", "seconds"), [(AWAY, 10), (DENIED, 0)])
def test_a_revoked_token_without_a_successor(
    output: Output, removes: bool, error: KubevendError, seconds: float
) -> None:
    """A revoked token is removed, unless it is to be kept: at once when another is refused, else after a moment."""
    world = World(replace(output, remove_revoked=removes))
    world.renew()
    world.keeper.revoked("leases/other")
    assert world.keeper.seconds_left == 600
    world.keeper.revoked("leases/one")
    assert (world.keeper.seconds_left, world.content()) == (0, "eyJ.one")
    world.keeper.failed(error)
    world.at(max(0, seconds - 1))
    assert (world.content() is None) == (removes and seconds == 0)
    world.at(seconds)
    assert (world.content() is None) == removes


def test_a_revoked_token_with_a_successor(output: Output) -> None:
    """The next token takes the place of one that was revoked, and stays."""
    world = World(output)
    world.renew()
    world.keeper.revoked("leases/one")
    world.renew("two")
    world.at(30)
    assert world.content() == "eyJ.two"


def test_a_file_that_cannot_be_written_is_tried_again(output: Output) -> None:
    """While a file cannot be written the output is not ready, says why, and is tried again."""
    world = World(output)
    world.file.mkdir()
    world.renew()
    world.at(4)
    assert (world.keeper.tally.write_failures, world.keeper.seconds_left) == (1, 0)
    assert "is no file" in world.keeper.state
    world.file.rmdir()
    world.at(5)
    assert (world.content(), world.keeper.state, world.told.times) == ("eyJ.one", "good for 595 s", 1)
    assert world.events() == ["not_written", "written"]


def test_a_kubeconfig_stays_and_its_token_changes(output: Output, tmp_path: Path) -> None:
    """A kubeconfig waits for the cluster's place, is written once, and names the token's file, which changes."""
    file = tmp_path / "kc"
    world = World(replace(output, content=Kubeconfig(file, "here")))
    world.renew()
    assert (world.content(), world.keeper.state) == (None, "where the cluster is, is not known yet")
    world.keeper.located(PLACE)
    first = file.stat()
    read: dict[str, Any] = yaml.safe_load(file.read_text())
    assert read["clusters"][0]["cluster"]["server"] == "https://cluster:6443"
    assert read["users"][0]["user"] == {"tokenFile": "kc.token"}
    assert read["contexts"][0]["context"]["namespace"] == "apps"
    world.renew("two")
    assert (file.stat(), (tmp_path / "kc.token").read_text()) == (first, "eyJ.two")
    assert world.told.times == 2


def test_a_template_has_all_values(output: Output, tmp_path: Path) -> None:
    """Every value that a template may name comes from the token and its cluster."""
    names = ["token", "expiration", "namespace", "service_account", "audiences", "lease", "jti", "cluster_server"]
    text = "\n".join(f"${{{name}}}" for name in [*names, "cluster_ca", "cluster_ca_base64"])
    world = World(replace(output, content=Filled(tmp_path / "filled", Template(text))))
    world.renew()
    world.keeper.located(PLACE)
    assert world.content() == (
        "eyJ.one\n2026-01-01T12:00:00Z\napps\ndemo\na,b\nleases/one\njti-one\nhttps://cluster:6443\n-----CA-----\n"
        "LS0tLS1DQS0tLS0t"
    )


def test_metrics_have_names_as_they_are(output: Output) -> None:
    """Whatever an output is called, the metrics can be read; each family is told of once."""
    world = World(replace(output, name='a "b"\\c\nd'))
    world.renew()
    shown = metrics.text([world.keeper])
    assert 'kubevend_agent_renewals_total{output="a \\"b\\"\\\\c\\nd"} 1\n' in shown
    assert "\nkubevend_agent_ready 1\n" in shown
    types = [line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 7


def test_an_agent_that_hangs_is_not_alive() -> None:
    """When the main thread has not turned for a minute, the agent says that it is stuck."""
    time = 0.0
    beat = Beat(lambda: time)
    time = 60.0
    assert not beat.is_stuck
    time = 61.0
    assert beat.is_stuck
    beat.beat()
    assert not beat.is_stuck

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from kubevend_server.callers import BOOTSTRAP_ADMIN
from kubevend_server.health import POLICIES, Health
from kubevend_server.metrics import PolicyCollector
from kubevend_server.policy.entities import Circumstances, Server
from kubevend_server.policy.policies import PolicyFiles
from kubevend_server.policy_folder import PolicyReload, PolicySource, load_folder, read_folder
from tests.support.mounted import Mounted
from tests.unit.builders import NOW, PERMIT_ALL, clock


def conditions(body: str) -> str:
    """A policy with these conditions."""
    return f'@id("deep") permit(principal, action, resource) when {{ {body} }};'


OTHER = '@id("other") permit(principal, action == Action::"ListRoles", resource);'


class Watched:
    """A mounted folder, the policies in force, and who is told of them."""

    def __init__(self, folder: Path, texts: dict[str, str]) -> None:
        """Start with these texts."""
        self.mounted = Mounted(folder)
        self.mounted.swap(texts)
        policies, version = load_folder(folder)
        self.source = PolicySource(policies, NOW)
        self.health = Health()
        self.reload = PolicyReload(folder, self.source, version, clock, self.health.tell_policies)

    async def look(self, times: int = 4) -> None:
        """Look often enough for a change to be taken."""
        for _ in range(times):
            await self.reload.look()

    def deciding(self, action: str = "ListRoles") -> tuple[str, ...]:
        """The policies that decide."""
        policies = self.source.current
        return policies.authorize(BOOTSTRAP_ADMIN, action, Server(), Circumstances(NOW)).policies

    async def state(self) -> tuple[int, bool, int]:
        """Health's status, whether the policies are stale, and how many versions could not be used."""
        statuses = await self.health.List(health_pb2.HealthListRequest(), None)
        return statuses.statuses[POLICIES].status, bool(self.source.fault), self.source.failures


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_swapped_folder_is_taken_over(tmp_path: Path) -> None:
    """A ConfigMap that the kubelet swaps is in force after two looks, groups and all, and is told once."""
    watched = Watched(tmp_path / "policies", {"a.cedar": PERMIT_ALL})
    grouped = '@id("grouped") permit(principal in Group::"admins", action, resource);'
    groups = '[groups]\nadmins = ["admin://local/bootstrap"]'
    with capture_logs() as logs:
        watched.mounted.swap({"b.cedar": grouped, "groups.toml": groups})
        await watched.reload.look()
        assert watched.deciding() == ("everything",)
        await watched.look()
    assert watched.deciding() == ("grouped",)
    assert read_folder(tmp_path / "policies") == PolicyFiles({"b.cedar": grouped}, groups)
    told = {"policies": 1, "groups": 1, "sha256": watched.source.current.sha256}
    folder = str(tmp_path / "policies")
    assert logs == [{"event": "policies_loaded", "log_level": "info", "folder": folder, **told}]
    assert await watched.state() == (SERVING, False, 0)


FAULTS = [
    ({"a.cedar": PERMIT_ALL, "b.cedar": "permit("}, "b.cedar: it does not parse"),
    ({"a.cedar": PERMIT_ALL, "b.cedar": PERMIT_ALL}, "b.cedar: two policies have the @id 'everything'"),
    ({"a.cedar": OTHER.replace("ListRoles", "StealToken")}, "a.cedar: other: "),
    ({"a.cedar": OTHER, "groups.toml": "[groups"}, "groups.toml: it is no TOML"),
    (
        {"a.cedar": PERMIT_ALL, "b.cedar": conditions(" || ".join(["true"] * 80))},
        "b.cedar: the policy 'deep' has too many",
    ),
    ({"a.cedar": PERMIT_ALL, "b.cedar": conditions(" || ".join(["true"] * 900))}, "b.cedar: a policy has too many"),
    (
        {"a.cedar": PERMIT_ALL, "b.cedar": conditions(" || ".join(["true"] * 90000))},
        "b.cedar: a policy has more than",
    ),
    ({"a.cedar": PERMIT_ALL, "b.cedar": conditions("(" * 90000)}, "b.cedar: a policy has more than 64 brackets"),
    ({"a.cedar": OTHER, "groups.toml": "groups = " + "[" * 9000}, "groups.toml: it is no TOML"),
    ({"a.cedar": ""}, "no policy left"),
    ({}, "no policy left"),
]


@pytest.mark.parametrize(("texts", "told"), FAULTS)
async def test_a_folder_that_cannot_be_used_changes_nothing(tmp_path: Path, texts: dict[str, str], told: str) -> None:
    """A set with a fault is refused as a whole and told once, with file and fault; health, metric and log show it
    until the folder can be used again.
    """
    watched = Watched(tmp_path / "policies", {"a.cedar": PERMIT_ALL})
    before = watched.source.current
    with capture_logs() as logs:
        watched.mounted.swap(texts)
        await watched.look()
    assert watched.source.current is before
    assert await watched.state() == (NOT_SERVING, True, 1)
    (line,) = logs
    assert (line["event"], line["in_force"]) == ("policies_unusable", before.sha256)
    assert told in str(line["error"])
    watched.mounted.swap({"a.cedar": OTHER})
    await watched.look()
    assert (watched.deciding(), await watched.state()) == (("other",), (SERVING, False, 1))


async def test_the_metrics_tell_of_the_policies(tmp_path: Path) -> None:
    """How many are in force, since when, whether they are stale, and how many versions were of no use."""
    watched = Watched(tmp_path / "policies", {"a.cedar": PERMIT_ALL + OTHER})
    watched.mounted.swap({"a.cedar": "permit("})
    await watched.look()
    registry = CollectorRegistry()
    registry.register(PolicyCollector(watched.source))
    assert {sample.name: sample.value for metric in registry.collect() for sample in metric.samples} == {
        "kubevend_policies": 2,
        "kubevend_policy_loaded_timestamp_seconds": NOW.timestamp(),
        "kubevend_policy_stale": 1,
        "kubevend_policy_reload_failures_total": 1,
    }


def _vanish(folder: Path) -> None:
    shutil.rmtree(folder)


def _dangle(folder: Path) -> None:
    (folder / "z.cedar").symlink_to("nowhere")


def _scramble(folder: Path) -> None:
    (folder / "z.cedar").write_bytes(b"\xff")


def _nest(folder: Path) -> None:
    (folder / "z.cedar").mkdir()


def _misname(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff z.cedar")).write_text(OTHER)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "z.cedar")


def _endless(folder: Path) -> None:
    (folder / "z.cedar").symlink_to("/dev/zero")


def _huge(folder: Path) -> None:
    (folder / "z.cedar").touch()
    os.truncate(folder / "z.cedar", 1 << 40)


@pytest.mark.parametrize("harm", [_vanish, _dangle, _scramble, _nest, _misname, _pipe, _endless, _huge])
async def test_a_file_that_cannot_be_read_is_not_left_out(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Files that cannot be read refuse the whole, at the start too: among what would be left out may be a forbid."""
    folder = tmp_path / "policies"
    watched = Watched(folder, {"a.cedar": PERMIT_ALL})
    harm(folder)
    with capture_logs() as logs:
        await watched.look()
    assert [line["event"] for line in logs] == ["policies_unusable"]
    assert watched.deciding() == ("everything",)
    with pytest.raises((OSError, ValueError), match=r"z\.cedar|policies|surrogates"):
        load_folder(folder)


async def test_a_file_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    """What changes from one look to the next is left alone until it stays as it is."""
    watched = Watched(tmp_path / "policies", {"a.cedar": PERMIT_ALL})
    written = tmp_path / "policies" / "z.cedar"
    for number in range(1, 4):
        written.write_text(OTHER + " " * number)
        await watched.reload.look()
        assert watched.deciding() == ("everything",)
    await watched.reload.look()
    assert watched.deciding() == ("everything", "other")


async def test_a_change_that_is_made_to_look_like_none(tmp_path: Path) -> None:
    """A file that is written in its place, of the same size and with its old time, is another one all the same."""
    watched = Watched(tmp_path / "policies", {"a.cedar": PERMIT_ALL})
    written = (tmp_path / "policies" / "a.cedar").resolve()
    before = written.stat()

    with written.open("r+") as file:
        file.write(PERMIT_ALL.replace("everything", "everyth1ng"))
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    await watched.look()

    assert written.stat().st_size == before.st_size
    assert watched.deciding() == ("everyth1ng",)


async def test_the_same_files_again_are_what_they_were(tmp_path: Path) -> None:
    """After a fault the old files, put back as they were, are in force and no longer stale."""
    folder = tmp_path / "policies"
    watched = Watched(folder, {"a.cedar": PERMIT_ALL})
    (folder / "z.cedar").write_text("permit(")
    await watched.look()
    assert await watched.state() == (NOT_SERVING, True, 1)
    (folder / "z.cedar").unlink()
    await watched.look()
    assert await watched.state() == (SERVING, False, 1)


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    """What begins with a dot is the kubelet's or an editor's, and is not read; nor is what is no policy file."""
    (tmp_path / "a.cedar").write_text(PERMIT_ALL)
    for name in (".a.cedar.swp", ".b.cedar", "..2026_x", "notes.txt", "b.cedar~"):
        (tmp_path / name).write_text("permit(")
    assert read_folder(tmp_path) == PolicyFiles({"a.cedar": PERMIT_ALL})


def test_a_folder_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    """A start without the folder says which setting to correct."""
    with pytest.raises(OSError, match=r"policy\.folder of the settings is .*/polices: there is no such folder"):
        load_folder(tmp_path / "polices")


def test_an_empty_folder_starts_with_a_warning(tmp_path: Path) -> None:
    """The server starts without policies, and says that nobody may do anything."""
    with capture_logs() as logs:
        policies, _ = load_folder(tmp_path)
    assert (len(policies), [line["event"] for line in logs]) == (0, ["no_policies"])

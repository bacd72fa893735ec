"""The Go library: its own tests, and its modules."""

from __future__ import annotations

import re

import pytest

from tests.support.golang import LIBRARY, ROOT, can_find_races, go


def test_its_own_tests_pass() -> None:
    """The tests that the library has in its own language hold, without a data race where Go can look for one."""
    race = can_find_races()

    said = go("test", "-v", *(["-race"] if race else []), ".", folder=LIBRARY, race=race)

    assert said.count("--- PASS: Test") >= 30
    assert "--- SKIP" not in said


def test_the_tests_of_its_kubernetes_module_pass() -> None:
    """The same for the module that puts it into client-go."""
    said = go("test", "-v", ".", folder=LIBRARY / "kubernetes")

    assert said.count("--- PASS: Test") >= 6
    assert "--- SKIP" not in said


def test_who_needs_tokens_alone_gets_no_client_go() -> None:
    """Nothing of Kubernetes is among the modules that the library requires."""
    assert "k8s.io" not in go("list", "-m", "all", folder=LIBRARY)


@pytest.mark.parametrize("module", [".", "kubernetes", "conformance"])
def test_nothing_is_compiled_twice(module: str) -> None:
    """What the library and the development cluster both require they require in one version."""
    cluster, library = (
        dict(re.findall(r"^\t(\S+) (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE))
        for folder in (ROOT / "devcluster", LIBRARY / module)
    )
    shared = cluster.keys() & library.keys()

    assert "google.golang.org/grpc" in shared
    assert {name: library[name] for name in shared} == {name: cluster[name] for name in shared}

"""The pages of the client libraries, typed as they stand, after `make run`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from devcluster.golang import MINIMUM, environment, find_go
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT, Quickstart
from tests.support import java
from tests.support.shell_blocks import read_blocks, run_blocks
from tests.support.typescript import build_library, holding_library


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a `make run`."""
    with Quickstart(tmp_path_factory.mktemp("clients")) as running:
        running.wait_ready()
        yield running.here


def test_python(here: Path) -> None:
    """Every command of docs/clients/python.md works, and prints what the page shows."""
    blocks = read_blocks((ROOT / "docs" / "clients" / "python.md").read_text())
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}

    for block, printed in run_blocks(blocks, here, clean):
        assert_shown(block, printed)
    assert [block.line for block in blocks if not block.runs] == []
    assert len(blocks) == 4


def test_typescript(here: Path) -> None:
    """Every command of docs/clients/typescript.md works, and prints what the page shows."""
    build_library()
    link(here, Makefile=ROOT / "Makefile", clients=ROOT / "clients")
    link(here, **{".venv": Path(sys.prefix)})
    blocks = read_blocks((ROOT / "docs" / "clients" / "typescript.md").read_text())
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}

    with holding_library():
        done = run_blocks(blocks, here, clean, seconds=600)
    for block, printed in done:
        assert_shown(block, printed)
    assert [block.line for block in blocks if not block.runs] == []
    assert len(blocks) == 3


def link(here: Path, **targets: Path) -> None:
    """Have these where they are in a clone, for the pages that use them."""
    for name, target in targets.items():
        if not (here / name).exists():
            (here / name).symlink_to(target)


def test_go(here: Path) -> None:
    """Every command of docs/clients/go.md works, and prints what the page shows."""
    link(here, clients=ROOT / "clients")
    blocks = read_blocks((ROOT / "docs" / "clients" / "go.md").read_text())
    # As all else of this repository is compiled, so that nothing is compiled twice.
    found = find_go(MINIMUM)
    clean = {n: v for n, v in environment().items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
    clean["PATH"] = f"{found.path.parent}{os.pathsep}{clean['PATH']}"

    for block, printed in run_blocks(blocks, here, clean, seconds=600):
        assert_shown(block, printed)
    assert [block.line for block in blocks if not block.runs] == []
    assert len(blocks) == 3


def test_java(here: Path) -> None:
    """Every command of docs/clients/java.md works, and prints what the page shows."""
    java.build_library()
    link(here, clients=ROOT / "clients")
    blocks = read_blocks((ROOT / "docs" / "clients" / "java.md").read_text())
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}

    with java.holding_library():
        done = run_blocks(blocks, here, clean, seconds=600)
    for block, printed in done:
        assert_shown(block, printed)
    assert [block.line for block in blocks if not block.runs] == []
    assert len(blocks) == 3
    assert java_readme(here, clean) == "system:serviceaccount:kubevend-quickstart:demo\n"


def java_readme(here: Path, environment: Mapping[str, str]) -> str:
    """What the program in the Java library's README prints, with the dependencies that the page has fetched."""
    (program,) = re.findall(r"^```java\n(.*?)^```$", (java.LIBRARY / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    folder = here / ".dev" / "java"
    (folder / "Quickstart.java").write_text(program)
    start = '. .dev/env; cd .dev/java; exec java -cp "$(cat classpath)" Quickstart.java 2>log'
    return subprocess.check_output(["bash", "-euc", start], cwd=here, env=environment, text=True)


def own_environment(folder: Path) -> dict[str, str]:
    """A shell's environment that says nothing of clusters, and keeps contexts and credentials in a folder."""
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
    return {**clean, "XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.mark.parametrize(("page", "count"), [("cli", 11), ("kubectl", 3), ("agent", 5)])
def test_command(here: Path, tmp_path: Path, page: str, count: int) -> None:
    """Every command of the pages about the `kubevend` command works, and prints what the page shows."""
    blocks = read_blocks((ROOT / "docs" / f"{page}.md").read_text())

    for block, printed in run_blocks(blocks, here, own_environment(tmp_path)):
        assert_shown(block, printed)
        assert "eyJ" not in printed
    assert [block.line for block in blocks if not block.runs] == []
    assert len(blocks) == count

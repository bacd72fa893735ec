from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

IN_CI = bool(os.environ.get("CI"))
# The others read what operators write, or what a cluster says.
OF_CALLERS = {
    "bearer_tokens",
    "certificates",
    "forwarded",
    "name_templates",
    "page_tokens",
    "policy_context",
    "requests",
    "settings",
}


def test_every_target_has_a_corpus() -> None:
    """Each target begins with seeds, and no seeds are of a target that is gone."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert all(any(folder.iterdir()) for folder in CORPUS.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_the_parser_stands(name: str, tmp_path: Path) -> None:
    """Nothing that anybody can write makes a parser fail otherwise than it says that it does."""
    seconds = (30 if name in OF_CALLERS else 10) if IN_CI else 2
    fuzz = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, str(seconds), str(tmp_path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=300,
    )
    assert fuzz.returncode == 0, fuzz.stderr[-4000:]

"""The pages of the client libraries are true: every command works, and prints what the page shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import Quickstart
from tests.support.shell_blocks import read_blocks, run_blocks
from tests.support.typescript import build_library, holding_library

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_on_typescript(tmp_path: Path) -> None:
    """From the package to a first request to Kubernetes, and a refusal."""
    build_library()
    for name in ("Makefile", "clients"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    blocks = read_blocks((ROOT / "docs" / "clients" / "typescript.md").read_text())
    assert [block.line for block in blocks if not block.runs] == []
    clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
    with Quickstart(tmp_path) as running, holding_library():
        running.wait_ready()
        for block, printed in run_blocks(blocks, tmp_path, clean):
            assert_shown(block, printed)

"""docs/policies.md, typed as it stands, after `make run`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from kubevend_server.policy.parsing import SCHEMA, actions
from kubevend_server.policy_commands.case_files import CaseEntry, CasesFile
from tests.docs.replies import assert_shown
from tests.e2e.quickstart_process import ROOT, Quickstart
from tests.support.shell_blocks import read_blocks, run_blocks

PAGE = (ROOT / "docs" / "policies.md").read_text()
BLOCKS = read_blocks(PAGE)


def test_what_is_shown_is_what_comes(tmp_path: Path) -> None:
    """From an empty folder to policies in force: every command works, and prints what the page shows."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    with Quickstart(tmp_path) as running:
        running.wait_ready()
        clean = {n: v for n, v in os.environ.items() if n != "KUBECONFIG" and not n.startswith("KUBEVEND_")}
        for block, printed in run_blocks(BLOCKS, tmp_path, clean):
            assert_shown(block, printed)


def test_nothing_is_left_out() -> None:
    """Every block of the page is run; its tables have every action, type of caller and key, and no other."""
    tables = PAGE.partition("## What a policy can look at")[2]
    rows = [re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| ([^|]*`[^|]*) \|", tables, re.MULTILINE)]
    told = {word for row in rows for word in row}
    principals = set(re.findall(r"principal: \[([\w, ]+)\]", SCHEMA))

    assert [block.line for block in BLOCKS if not block.runs] == []
    assert len(BLOCKS) == 16
    assert told == (actions() - {"view", "administer"}) | {
        *(name for names in principals for name in names.split(", ")),
        "Group",
        *CasesFile.__dataclass_fields__,
        *CaseEntry.__dataclass_fields__,
    }

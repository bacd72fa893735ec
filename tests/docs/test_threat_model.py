from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()

_NAMED = re.compile(r"`((?:[a-z]+/\w+\.py)?::\w+)`")


def test_every_test_that_the_page_names_is_there() -> None:
    """The threat model rests on tests; one that was renamed or taken away is missed."""
    named, file = [], ""
    for reference in _NAMED.findall(PAGE):
        path, _, name = reference.partition("::")
        file = path or file
        named.append((file, name))
    assert named
    missing = [f"{file}::{name}" for file, name in named if name not in _tests_in(ROOT / "tests" / file)]
    assert missing == []


def _tests_in(file: Path) -> set[str]:
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

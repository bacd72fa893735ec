"""What pins dependencies names them by version and hash, and no place to get them from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NAMESPACE = 'xmlns="http://maven.apache.org/POM/4.0.0"'
PINNING = [
    ROOT / "requirements.lock",
    *ROOT.glob("clients/typescript/package-lock.json"),
    *ROOT.glob("clients/java/**/pom.xml"),
]


@pytest.mark.parametrize("file", PINNING, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_address_is_named(file: Path) -> None:
    """There is no address in it; npm writes `resolved` and `funding` into its lock, which are to be taken out."""
    content = file.read_text().replace(_NAMESPACE, "")

    assert re.findall(r"\w+://[^\s\"<]+|--(?:extra-)?index-url", content) == []

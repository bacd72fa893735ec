from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.evidence import Evidence
from tests.unit.builders import ADMIN_TOKEN, bearer

TOKEN = bearer(sub="system:serviceaccount:ci:runner")


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """Two tokens, and a folder in which a server writes."""
    found = Evidence(folders={tmp_path: None})
    found.note_token(TOKEN)
    found.note_token(ADMIN_TOKEN)
    return found


@pytest.mark.parametrize(
    "leak", [TOKEN, TOKEN.partition(".")[2], TOKEN.rpartition(".")[2], f'{{"a":"x {ADMIN_TOKEN}"}}', f"\x00{TOKEN}\x00"]
)
@pytest.mark.parametrize("told", [False, True])
def test_a_token_is_found(evidence: Evidence, tmp_path: Path, leak: str, told: bool) -> None:
    """A token, or a part of one, is found in a file of any name and in what was told; and it is not told once more."""
    if told:
        evidence.told.append(("an error", leak.encode()))
    else:
        (tmp_path / "kubevend.db-wal").write_text(leak)
    (found,) = evidence.leaks()
    assert "in an error" in found if told else "kubevend.db-wal" in found
    assert not any(part.decode() in found for part in evidence.parts)


def test_a_token_that_nobody_noted_is_found(evidence: Evidence, tmp_path: Path) -> None:
    """What has the form of a token is a leak, whoever it was issued to; in a home, in logs and stores alone."""
    evidence.homes, evidence.folders = {tmp_path: None}, {}
    other = bearer(sub="somebody else")
    for file in ("answer.json", "kubevend.log"):
        (tmp_path / file).write_text(f"x {other} y")
    (found,) = evidence.leaks()
    assert "kubevend.log" in found


def test_what_is_no_secret_is_not_found(evidence: Evidence, tmp_path: Path) -> None:
    """A token's header, a digest, and the files that hold tokens on purpose are no leak."""
    (tmp_path / "kubevend.log").write_text(f"{TOKEN.partition('.')[0]} {'a' * 64} [a token was left out here]")
    (tmp_path / "credentials").mkdir()
    for holder in ("admin.token", "credentials/prod", "runner.token"):
        (tmp_path / holder).write_text(TOKEN)
    assert list(evidence.leaks()) == []

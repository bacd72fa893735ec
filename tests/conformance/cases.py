"""The cases: YAML files, each a row of steps; `README.md` tells what can be in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.languages import missing

FOLDER = Path(__file__).parent / "cases"
_DIFFERENCES = Path(__file__).parent / "differences.yaml"


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: its file's, without `.yaml`.
        what: in a sentence, what must hold.
        settings: of the server, beyond those of all tests.
        credential: what the caller shows in place of the admin's token.
        roles: by id, in proto JSON.
        steps: what is done, in this order.
    """

    name: str
    what: str
    settings: Mapping[str, Mapping[str, Any]]
    credential: str
    roles: Mapping[str, Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]


def load_cases() -> list[Case]:
    """All cases, in the order of their names."""
    return [_load(path) for path in sorted(FOLDER.glob("*.yaml"))]


def differences() -> dict[str, dict[str, str]]:
    """Which cases come out otherwise, by case and language, and why."""
    return yaml.safe_load(_DIFFERENCES.read_text()) or {}


def cases_for(language: str) -> list[Any]:
    """All cases as parameters of a test; those that come out otherwise with this language must do so."""
    return [pytest.param(case, id=case.name, marks=list(_marks(case, language))) for case in load_cases()]


def _marks(case: Case, language: str) -> Iterator[pytest.MarkDecorator]:
    if (lack := missing(language)) and not os.environ.get("CI"):
        yield pytest.mark.skip(lack)  # before a cluster is started for it
    if reason := differences().get(case.name, {}).get(language):
        yield pytest.mark.xfail(reason=reason, strict=True)


def _load(path: Path) -> Case:
    content = yaml.safe_load(path.read_text())
    unknown = content.keys() - {"what", "settings", "credential", "roles", "steps"}
    if unknown:
        raise ValueError(f"{path.name} has {', '.join(sorted(unknown))}, which no case has.")
    return Case(
        path.stem,
        content["what"],
        content.get("settings", {}),
        content.get("credential", ""),
        content.get("roles", {}),
        content["steps"],
    )

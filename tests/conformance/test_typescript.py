"""What any client library does, done by that for TypeScript."""

from __future__ import annotations

import pytest

from tests.conformance.cases import Case, cases_for
from tests.conformance.conftest import Stage


@pytest.mark.parametrize("case", cases_for("typescript"))
def test_it_does_what_every_library_does(case: Case, stage: Stage) -> None:
    """The case comes out as it says."""
    stage.play(case, "typescript")

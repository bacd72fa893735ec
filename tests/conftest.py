"""What holds for the whole run of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.evidence import EVIDENCE


@pytest.fixture(scope="session", autouse=True)
def no_token_is_told() -> Iterator[None]:
    """At the end of the run no token that was issued or shown in it is in anything that a server wrote or told."""
    yield
    leaks = list(EVIDENCE.leaks())
    assert not leaks, "\n".join(leaks)

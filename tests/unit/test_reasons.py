"""The reasons of errors and warnings, and where people read of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_REASONS = re.compile(
    r"DECIDED_AS$|STAGE_|OUTCOME_|KUBERNETES_SERVICE_(HOST|PORT)|TOKEN_REVIEW|SERVICE_ACCOUNT$|PER_|NOT_IN$|DOES_NOT_EXIST$"
)
WARNINGS = re.compile(r"TTL_CAPPED|TTL_ABOVE|CLUSTER_WARNING|CREDENTIAL_EXPIRES|CLOCK_SKEW|RULES_NOT")
MADE_OF_PARTS = {f"{noun}_{what}" for noun in ("NAMESPACE", "SERVICE_ACCOUNT") for what in ("REQUIRED", "NOT_ALLOWED")}


def reasons() -> set[str]:
    """Every reason that the server can give."""
    sources = (ROOT / "server" / "kubevend_server").rglob("*.py")
    found = {reason for source in sources for reason in re.findall(r'"([A-Z]+(?:_[A-Z]+)*)"', source.read_text())}
    return {reason for reason in found if ("_" in reason or reason == "DEFECT") and not NO_REASONS.match(reason)} | (
        MADE_OF_PARTS
    )


def test_every_error_is_in_the_protos() -> None:
    """Whatever reason an error can have, a comment of the API tells it."""
    told = "".join(proto.read_text() for proto in (ROOT / "protos" / "kubevend").rglob("*.proto"))

    assert len(reasons()) > 50
    assert {reason for reason in reasons() if not WARNINGS.match(reason) and reason not in told} == set()


def test_every_reason_is_explained() -> None:
    """docs/errors.md has a part for every reason that there is, and for none that there is not."""
    page = (ROOT / "docs" / "errors.md").read_text()
    parts = dict(re.findall(r"^### ([A-Z_]+)\n(.+?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL))

    assert set(parts) == reasons()
    assert all(part.strip() for part in parts.values())

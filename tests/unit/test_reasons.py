"""The reasons of errors, and where callers read of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_REASONS = re.compile(r"STAGE_|OUTCOME_(?!UNKNOWN)|KUBERNETES_SERVICE|TTL_CAPPED|TTL_ABOVE|CLUSTER_WARNING")


def test_every_reason_is_in_the_protos() -> None:
    """Whatever reason an error can have, a comment of the API tells it."""
    sources = (ROOT / "server" / "kubevend_server").rglob("*.py")
    found = {reason for source in sources for reason in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source.read_text())}
    reasons = {reason for reason in found if not NO_REASONS.match(reason)}
    told = "".join(proto.read_text() for proto in (ROOT / "protos" / "kubevend").rglob("*.proto"))

    assert len(reasons) > 30
    assert {reason for reason in reasons if reason not in told} == set()

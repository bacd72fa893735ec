"""What comes of looking at a config's cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kubevend_server.errors import KubevendError

Item = Literal[
    "REACHABLE",
    "TRUSTED",
    "KUBERNETES",
    "CLOCK",
    "CREDENTIAL",
    "TOKEN_REVIEW",
    "PERMISSION",
    "SERVICE_ACCOUNT",
    "ADMISSION",
]
State = Literal["PASSED", "WARNING", "FAILED", "SKIPPED"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of looking at one thing. The fields are those of `Check` in the protos."""

    item: Item
    state: State
    message: str
    reason: str = ""
    namespace: str = ""
    service_account: str = ""
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of looking at a config.

    Attributes:
        identity: as whom the cluster knows kubevend, or empty.
        findings: one for each thing.
        missing_rbac: YAML that would grant what is missing, or empty.
    """

    identity: str
    findings: tuple[Finding, ...]
    missing_rbac: str

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "FAILED" for finding in self.findings)


def failed(item: Item, error: KubevendError) -> Finding:
    """The finding of what failed with an error."""
    return Finding(item, "FAILED", error.message, error.reason, metadata=error.metadata)

"""The policies of a folder, looked at as `kubevend-server policy` does: all that is wrong, and what decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kubevend_server.policy.access import AccessPolicy, PolicyError, join_files
from kubevend_server.policy.checking import Finding, Policy, check, decode, read
from kubevend_server.policy.explaining import Explainer


@dataclass(frozen=True, slots=True)
class Inspected:
    """A folder's policies, and what was found about them."""

    folder: Path
    texts: dict[str, str]
    policies: list[Policy]
    findings: list[Finding]

    @property
    def usable(self) -> bool:
        """Whether a server would take them."""
        return not any(finding.severity == "error" for finding in self.findings)

    def explainer(self) -> Explainer:
        """What explains their decisions.

        Raises:
            ValueError: a server would not take them.
        """
        if not self.usable:
            first = next(finding for finding in self.findings if finding.severity == "error")
            raise ValueError(
                f"The policies in {self.folder} cannot be used: {place(first)}: {first.message}\n"
                f"All that is wrong with them: kubevend-server policy check {self.folder}"
            )
        return Explainer(AccessPolicy(join_files(self.texts)), self.policies)


def inspect(folder: Path) -> Inspected:
    """Look at a folder's policies.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    texts: dict[str, str] = {}
    faults: list[Finding] = []
    # iterdir, since glob says nothing of a folder that is not there.
    for file in sorted(path for path in folder.iterdir() if path.name.endswith(".cedar")):
        text = decode(str(file), file.read_bytes())
        if isinstance(text, str):
            texts[str(file)] = text
        else:
            faults.append(text)
    policies, unread = read(texts)
    findings = [*faults, *unread, *check(policies)]
    if not policies and not findings:
        findings.append(Finding(str(folder), 0, "", "it has no policies, so nobody may do anything", "warning"))
    found = Inspected(folder, texts, policies, sorted(findings))
    _hold_against_server(found)
    return found


def _hold_against_server(found: Inspected) -> None:
    """Have the server's own reading the last word."""
    if not found.usable:
        return
    try:
        AccessPolicy(join_files(found.texts))
    except PolicyError as error:
        found.findings.append(Finding(str(found.folder), 0, "", str(error)))


def place(finding: Finding) -> str:
    """Where something is, as editors take it."""
    return f"{finding.file}:{finding.line}" if finding.line else finding.file

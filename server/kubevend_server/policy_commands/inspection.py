"""The policies of a folder, looked at as `kubevend-server policy` does: all that is wrong, and what decides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kubevend_server.policy.checking import Finding, Policy, check, decode, read
from kubevend_server.policy.explaining import Explainer
from kubevend_server.policy.groups import parse_groups
from kubevend_server.policy.parsing import PolicyError
from kubevend_server.policy.policies import GROUPS_FILE, Policies, PolicyFiles, load
from kubevend_server.policy_folder import content, paths


@dataclass(frozen=True, slots=True)
class Inspected:
    """A folder's policies, and what was found about them. `in_force` is None where a server would not take them."""

    folder: Path
    files: int
    policies: tuple[Policy, ...]
    findings: tuple[Finding, ...]
    in_force: Policies | None

    def explainer(self) -> Explainer:
        """What explains their decisions.

        Raises:
            ValueError: a server would not take them.
        """
        if self.in_force is None:
            first = next(finding for finding in self.findings if finding.severity == "error")
            raise ValueError(
                f"The policies in {self.folder} cannot be used: {place(first)}: {first.message}\n"
                f"All that is wrong with them: kubevend-server policy check {self.folder}"
            )
        return Explainer(self.in_force, self.policies)


def inspect(folder: Path) -> Inspected:
    """Look at a folder's policies.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    texts: dict[str, str] = {}
    findings: list[Finding] = []
    for path in paths(folder):
        text = decode(str(path), content(path))
        if isinstance(text, str):
            texts[str(path)] = text
        else:
            findings.append(text)
    unreadable = bool(findings)
    groups = texts.pop(str(folder / GROUPS_FILE), None)
    names, faults = _groups(str(folder / GROUPS_FILE), groups)
    policies, unread = read(texts)
    findings += [*faults, *unread, *check(policies, names)]
    if not policies and not findings:
        findings.append(Finding(str(folder), 0, "", "it has no policies, so nobody may do anything", "warning"))
    in_force, refusal = (None, "") if unreadable else _as_a_server(PolicyFiles(texts, groups))
    if refusal and not any(finding.severity == "error" for finding in findings):
        findings.append(Finding(str(folder), 0, "", refusal))
    return Inspected(folder, len(texts), tuple(policies), tuple(sorted(findings)), in_force)


def _groups(file: str, text: str | None) -> tuple[frozenset[str] | None, list[Finding]]:
    if text is None:
        return frozenset(), []
    try:
        return parse_groups(text).names, []
    except PolicyError as error:
        return None, [Finding(file, _line(text, str(error)), "", str(error))]


def _line(text: str, fault: str) -> int:
    """The line of groups.toml that a fault is about: it names the line, or the entry."""
    told = re.search(r"line (\d+)", fault)
    if told:
        return int(told[1])
    for word in reversed(re.findall(r"'(.+?)'", fault)):
        if word in text:
            return text.count("\n", 0, text.index(word)) + 1
    return 0


def _as_a_server(files: PolicyFiles) -> tuple[Policies | None, str]:
    """The policies as a server takes them, or why it does not: that is the last word."""
    try:
        return load(files), ""
    except PolicyError as error:
        return None, str(error)


def place(finding: Finding) -> str:
    """Where something is, as editors take it."""
    return f"{finding.file}:{finding.line}" if finding.line else finding.file

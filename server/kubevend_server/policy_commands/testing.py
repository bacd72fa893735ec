"""Tests of access policies: files of cases tried, and what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubevend_server.policy_commands.case_files import CasesError
from kubevend_server.policy_commands.cases import Case, read
from kubevend_server.policy_commands.inspection import inspect
from kubevend_server.policy_commands.questions import LIMITS, Answer, answer


@dataclass(frozen=True, slots=True)
class Tried:
    """A case and what came of it. `faults`: how the answer differs from what the case expects."""

    file: Path
    case: Case
    answer: Answer
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tested:
    """All cases, in the order of the files."""

    tried: tuple[Tried, ...]

    @property
    def failed(self) -> tuple[Tried, ...]:
        """The cases that failed."""
        return tuple(one for one in self.tried if one.faults)

    @property
    def passed(self) -> bool:
        """Whether none did."""
        return not self.failed


def run(paths: Sequence[Path], policies: Path | None = None) -> Tested:
    """Try the cases of files.

    Args:
        paths: the files, or folders of which each *.yaml is one.
        policies: the folder of the policies, in place of what the files say.

    Raises:
        ValueError, OSError: a file or a set of policies cannot be used.
    """
    files = [file for path in paths for file in _files(path)]
    return Tested(tuple(tried for file in files for tried in _run(file, policies)))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    if not found:
        raise CasesError(f"{path} has no *.yaml: a test that tests nothing would pass.")
    return found


def _run(file: Path, policies: Path | None) -> list[Tried]:
    folder, cases = read(file)
    inspected = inspect(policies or folder)
    explainer = inspected.explainer()
    known = {policy.id for policy in inspected.policies}
    tried = []
    for case in cases:
        unknown = sorted(set(case.by or ()) - known)
        if unknown:
            raise CasesError(f"{file}: {case.name}: by names {', '.join(unknown)}, but no policy has that @id.")
        found = answer(explainer, case.asking, LIMITS)
        tried.append(Tried(file, case, found, tuple(_faults(case, found))))
    return tried


def _faults(case: Case, found: Answer) -> list[str]:
    got = outcome(found)
    if got != case.expect:
        return [f"expected {case.expect}, got {got}"]
    if found.refusal is not None:
        if case.reason not in ("", found.refusal.reason):
            return [f"expected reason {case.reason}, got {found.refusal.reason}"]
    elif found.explanation is not None and case.by not in (None, found.explanation.decision.policies):
        by, decided = _listed(case.by or ()), _listed(found.explanation.decision.policies)
        return [f"expected {case.expect} by {by}, got it by {decided}"]
    return []


def outcome(found: Answer) -> str:
    """An answer in the word that cases expect it in."""
    if found.refusal is not None:
        return "refuse"
    return "allow" if found.allowed else "deny"


def _listed(policies: tuple[str, ...]) -> str:
    return ", ".join(policies) or "no policy"

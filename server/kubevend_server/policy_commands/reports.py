"""What `kubevend-server policy` prints: for a terminal, and for the log of a CI job. Colors are for terminals alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubevend_server.policy import wording
from kubevend_server.policy.access import Server
from kubevend_server.policy.checking import Finding, Policy
from kubevend_server.policy.explaining import Explanation, Near
from kubevend_server.policy_commands.inspection import Inspected, place
from kubevend_server.text import shown

if TYPE_CHECKING:
    # At run time they bring much of the server, for which `check` need not wait.
    from kubevend_server.policy_commands.asked import Explained, Possible
    from kubevend_server.policy_commands.questions import Answer, Asking
    from kubevend_server.policy_commands.testing import Tested, Tried

_LONGEST_LINE = 4000
_COLORS = {"error": "red", "warning": "yellow"}


def show_finding(finding: Finding) -> None:
    """Print what was found about a policy, on one line."""
    about = f"{finding.policy}: " if finding.policy else ""
    severity = click.style(finding.severity, fg=_COLORS[finding.severity])
    click.echo(f"{_plain(place(finding))}: {severity}: {_plain(f'{about}{finding.message}')}")


def show_checked(found: Inspected) -> None:
    """Print what a check came to."""
    counted = Counter(finding.severity for finding in found.findings)
    what = f"{_count(len(found.policies), 'policy', 'policies')} in {_count(found.files, 'file')}"
    told = ", ".join(_count(counted[kind], kind) for kind in ("error", "warning") if counted[kind])
    verdict = "would be taken" if found.in_force is not None else "would be refused as a whole"
    click.echo(f"{what}: {told or 'nothing wrong'}; {'it' if len(found.policies) == 1 else 'they'} {verdict}.")


def show_answer(asked: Explained) -> None:
    """Print whether a caller may do something, and why."""
    allowed = asked.answer.allowed
    verdict = click.style("ALLOWED" if allowed else "DENIED", fg="green" if allowed else "red", bold=True)
    _say(f"{verdict}  ", _sentence(asked.asking, may="may" if allowed else "may not"))
    for line in _why(asked.answer):
        _say("  ", line)
    for line in asked.assumed:
        _say("  assumed: ", line)


def show_who(possible: Possible) -> None:
    """Print which policies decide who may do something."""
    permits = [policy for policy in possible.policies if policy.parsed["effect"] == "permit"]
    forbids = [policy for policy in possible.policies if policy.parsed["effect"] == "forbid"]
    on = "" if isinstance(possible.resource, Server) else f" on {possible.resource.name}"
    permitting = _count(len(permits), "policy permits", "policies permit")
    click.echo(f"Who may {possible.action}{on}: {permitting} it{':' if permits else '.'}")
    for policy in permits:
        _show_policy(policy, possible)
    if forbids:
        click.echo("Unless one of these forbids it:")
    for policy in forbids:
        _show_policy(policy, possible)


def show_tested(tested: Tested) -> None:
    """Print what came of each case, as pytest does: dots, then what failed, then the sum."""
    for file, cases in _by_file(tested):
        marks = "".join(click.style("F", fg="red") if one.faults else "." for one in cases)
        click.echo(f"{_plain(str(file))} {marks}")
    for one in tested.failed:
        click.echo()
        _say(click.style("FAILED ", fg="red"), f"{one.file}: {one.case.name}")
        _say("  ", _sentence(one.case.asking, may="asks to"))
        for line in (*one.faults, *_why(one.answer)):
            _say("  ", line)
    click.echo()
    failed, passed = len(tested.failed), len(tested.tried) - len(tested.failed)
    click.echo(f"{failed} failed, {passed} passed" if failed else f"{passed} passed")


def _by_file(tested: Tested) -> Iterator[tuple[Path, list[Tried]]]:
    for file in dict.fromkeys(one.file for one in tested.tried):
        yield file, [one for one in tested.tried if one.file == file]


def _sentence(asking: Asking, *, may: str) -> str:
    on = "" if isinstance(asking.resource, Server) else f" on {asking.resource.name}"
    return f"{asking.caller.name} {may} {asking.action}{on}"


def _why(answer: Answer) -> Iterator[str]:
    if answer.refusal is not None:
        yield f"the role's own rules refuse it: {answer.refusal.message} [{answer.refusal.reason}]"
    elif answer.explanation is not None:
        yield from _decided(answer.explanation)
    if not answer.allowed and not answer.visible:
        yield "the caller may not get it either, so it is told that there is none"
    if answer.terms is not None and answer.allowed:
        yield from (f"granted: {rule}" for rule in answer.terms.rules)
        yield from (f"warning: {warning.message}" for warning in answer.terms.warnings)


def _decided(explanation: Explanation) -> Iterator[str]:
    decision = explanation.decision
    for error in decision.errors:
        yield f"a policy could not be evaluated, which denies: {error}"
    verb = "permitted by" if decision.allowed else "forbidden by"
    for policy in explanation.decided:
        yield f"{verb} {_named(policy)}"
        if not decision.allowed:
            yield from (f"    {text}" for text in _words(policy))
    if decision.allowed:
        return
    if not decision.policies and not decision.errors:
        yield "no policy permits it"
    for near in explanation.near:
        yield from _near(near)
    if explanation.more:
        yield f"and {_count(explanation.more, 'permit')} more of this action, further off"


def _near(near: Near) -> Iterator[str]:
    if not near.failed:
        yield f"{_named(near.policy)} would permit it"
        return
    yield f"{_named(near.policy)} would permit it, but for:"
    for failed in near.failed:
        yield f"    {failed.text}"
        yield from (f"        {name} is {value}" for name, value in failed.values)


def _show_policy(policy: Policy, possible: Possible) -> None:
    _say("  ", _named(policy))
    for text in _words(policy):
        _say("    ", text)
    for kind, name in dict.fromkeys(wording.entities(policy.parsed)):
        if kind == "Group" and ":" not in name and possible.inspected.in_force is not None:
            _say("    ", f"{name}: {', '.join(possible.inspected.in_force.groups.members(name)) or 'nobody'}")


def _words(policy: Policy) -> list[str]:
    found = wording.parts(policy.parsed)
    return [part.text for part in found if part.kind in ("principal", "when", "unless")]


def _named(policy: Policy) -> str:
    return f"{policy.id} ({policy.file}:{policy.line})"


def _say(before: str, text: str) -> None:
    """Print a line; what a terminal would obey in its text (labels of roles may hold anything) is only named."""
    click.echo(f"{before}{_plain(text)}")


def _plain(text: str) -> str:
    return shown(text, _LONGEST_LINE)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"

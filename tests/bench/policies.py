"""`make bench-policies`: what a decision costs with 10, 100 and 1,000 access policies."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from statistics import median

import click

from kubevend_server.callers import Caller, oidc_subject, service_account
from kubevend_server.policy.access import AccessPolicy
from kubevend_server.policy.entities import Circumstances
from kubevend_server.policy.policies import PolicyFiles, load
from kubevend_server.policy.terms import terms
from tests.unit.builders import NAMING, NOW, asked, limits, role

COUNTS = (10, 100, 1000)
SHAPES = {
    "one for each caller": 'permit(principal == ServiceAccount::"kubernetes://prod/n{0}/runner", action, resource);',
    "one for each role": 'permit(principal, action == Action::"IssueToken", resource == Role::"roles/r{0}");',
    "one for each team's label": (
        'permit(principal in Group::"g{0}", action, resource is Role) when '
        '{{ resource.hasTag("team") && resource.getTag("team") == "t{0}" }};'
    ),
    "one for each repository": (
        'permit(principal is OidcSubject, action == Action::"IssueToken", resource) when '
        '{{ principal.hasTag("repository") && principal.getTag("repository") == "acme/{0}" }};'
    ),
    "each for everybody": (
        'forbid(principal, action == Action::"IssueToken", resource) when {{ context.ttl > {0} && context.ttl < {0} }};'
    ),
}
"""What the policies are like. The last is the worst: all can matter to every question."""

QUESTIONS = 2000
"""Different ones, so that none has its answer from memory."""


def main() -> None:
    """Measure, and print a table."""
    click.echo("| policies | " + " | ".join(f"{count}: first, later" for count in COUNTS) + " | ratio | load 1,000 |")
    click.echo("| --- |" + " ---: |" * (len(COUNTS) + 2))
    for what, shape in SHAPES.items():
        measured = [_measure(shape, count) for count in COUNTS]
        cells = [f"{first:.0f} µs, {later:.0f} µs" for _, first, later in measured]
        ratio = measured[-1][2] / measured[0][2]
        click.echo(f"| {what} | {' | '.join(cells)} | {ratio:.2f} | {1000 * measured[-1][0]:.0f} ms |")


def _measure(shape: str, count: int) -> tuple[float, float, float]:
    """How long the set takes to load, in seconds; and a decision, in µs: the first of its kind, and a later one."""
    text = "\n".join(f'@id("p{number}") {shape.format(number)}' for number in range(count))
    groups = "[groups]\n" + "\n".join(f"g{number} = []" for number in range(count))
    began = time.perf_counter()
    policy = load(PolicyFiles({"p.cedar": text}, groups)).access
    loaded = time.perf_counter() - began
    first = median(_time(_asking(policy, number % count, 0)) for number in range(min(count, 10)))
    later = median(_time(_asking(policy, number % min(count, 10), number + 1)) for number in range(QUESTIONS))
    return loaded, 1e6 * first, 1e6 * later


def _asking(policy: AccessPolicy, number: int, seconds: int) -> Callable[[], object]:
    caller: Caller = service_account("prod", f"n{number}", "runner")
    if number % 2:
        caller = oidc_subject("github", "me", (("repository", f"acme/{number}"),), groups=(f"g{number}",))
    of = role(name=f"roles/r{number}", labels=(("team", f"t{number}"),))
    offered = terms(of, asked(ttl=timedelta(seconds=1000 + seconds)), limits(), NAMING)
    circumstances = Circumstances(NOW, "10.0.0.1", offered)
    return lambda: policy.authorize(caller, "IssueToken", of, circumstances)


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

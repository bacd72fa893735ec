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
    "everybody, a band of TTLs": (
        'forbid(principal, action == Action::"IssueToken", resource) when '
        "{{ context.ttl > {0}000 && context.ttl < {0}500 }};"
    ),
    "everybody, namespaces like a team's": (
        'permit(principal, action == Action::"IssueToken", resource) when {{ context.namespace like "team-{0}-*" }};'
    ),
    "everybody, an audience": (
        'permit(principal, action == Action::"IssueToken", resource) when '
        '{{ context.audiences.contains("https://a{0}") }};'
    ),
    "everybody, unless not for an audience": (
        'permit(principal, action == Action::"IssueToken", resource) unless '
        '{{ !(context.audiences.containsAny(["https://a{0}", "https://b{0}"])) || context.ttl > 3600 }};'
    ),
    "everybody, a namespace of the role": (
        'permit(principal, action == Action::"IssueToken", resource) when '
        '{{ resource.allowed_namespaces.contains("team-{0}-a") && context.ttl <= 900 }};'
    ),
    "everybody, from a network": (
        'permit(principal, action == Action::"IssueToken", resource) when '
        '{{ context has source && context.source.isInRange(ip("10.{1}.{2}.0/24")) }};'
    ),
    "everybody, its own namespace with an audience": (
        'permit(principal is ServiceAccount, action == Action::"IssueToken", resource) when '
        '{{ principal.namespace == context.namespace && context.audiences.contains("https://a{0}") }};'
    ),
    "mixed: a quarter each for a network, a pattern, TTLs, an audience": (
        'permit(principal, action == Action::"IssueToken", resource) when {{ {3} }};'
    ),
    "half of them match": (
        'permit(principal, action == Action::"IssueToken", resource) when {{ context.ttl > {0}000 }};'
    ),
    "all of them match": 'permit(principal, action == Action::"IssueToken", resource) when {{ context.ttl > {0} }};',
    "none is understood, none matches": (
        'permit(principal, action == Action::"IssueToken", resource) when {{ context.namespace like "*x{0}x*" }};'
    ),
}
"""What the policies are like. The last three are the worst: many or all of them match, or can for all that is told."""

MIXED = (
    'context has source && context.source.isInRange(ip("10.{1}.{2}.0/24"))',
    'context.namespace like "team-{0}-*"',
    "context.ttl > {0}000 && context.ttl < {0}500",
    'context.audiences.contains("https://a{0}")',
)

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


def _policy(shape: str, number: int) -> str:
    of = (number, number // 256, number % 256)
    return shape.format(*of, MIXED[number % len(MIXED)].format(*of))


def _measure(shape: str, count: int) -> tuple[float, float, float]:
    """How long the set takes to load, in seconds; and a decision, in µs: the first of its kind, and a later one."""
    text = "\n".join(f'@id("p{number}") {_policy(shape, number)}' for number in range(count))
    groups = "[groups]\n" + "\n".join(f"g{number} = []" for number in range(count))
    began = time.perf_counter()
    policy = load(PolicyFiles({"p.cedar": text}, groups)).access
    loaded = time.perf_counter() - began
    first = median(_time(_asking(policy, number % count, 0)) for number in range(min(count, 10)))
    later = median(_time(_asking(policy, number * 7 % count, number + 1)) for number in range(QUESTIONS))
    return loaded, 1e6 * first, 1e6 * later


def _asking(policy: AccessPolicy, number: int, seconds: int) -> Callable[[], object]:
    caller: Caller = service_account("prod", f"n{number}", "runner")
    if number % 2:
        caller = oidc_subject("github", "me", (("repository", f"acme/{number}"),), groups=(f"g{number}",))
    namespaces, audiences = (f"team-{number}-a", f"n{number}"), (f"https://a{number}", "https://api")
    of = role(
        name=f"roles/r{number}",
        labels=(("team", f"t{number}"),),
        allowed_namespaces=namespaces,
        allowed_audiences=audiences,
        max_ttl=timedelta(days=30),
    )
    ttl = timedelta(seconds=1000 * number + seconds % 900 + 1000 * (number == 0))
    wanted = asked(ttl=ttl, namespace=namespaces[seconds % 2], audiences=audiences[: 1 + seconds % 2])
    offered = terms(of, wanted, limits(max_ttl=timedelta(days=30)), NAMING)
    circumstances = Circumstances(NOW, f"10.{number // 256}.{number % 256}.{seconds % 256}", offered)
    return lambda: policy.authorize(caller, "IssueToken", of, circumstances)


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

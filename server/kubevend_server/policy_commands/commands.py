"""`kubevend-server policy`: access policies checked, explained and tested without a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from kubevend_server.redaction import redact
from kubevend_server.text import shown

T = TypeVar("T")

_LONGEST_LINE = 4000
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, path_type=Path)


class _Unanswered(click.ClickException):
    """Nothing could be said, which is neither yes nor no."""

    exit_code = 2


@click.group()
def policy() -> None:
    """Check, explain and test access policies, without a server."""


@policy.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
def check(folder: Path) -> None:
    """Check the policies in DIR as the server does before it takes them, and for what is hardly meant.

    Prints every fault with its place. The exit code is 1 where the server would refuse them; warnings leave it 0; 2
    where they cannot be read.
    """
    from kubevend_server.policy_commands import inspection, reports

    found = _usable(lambda: inspection.inspect(folder))
    for finding in found.findings:
        reports.show_finding(finding)
    reports.show_checked(found)
    sys.exit(1 if found.in_force is None else 0)


@policy.command()
@click.argument("folder", metavar="[DIR]", type=_FOLDER, required=False)
@click.option("--settings", "settings_file", type=_FILE, help="Take roles, limits and DIR from a server's settings.")
@click.option("--caller", default="", help="Who, by name: spiffe://example.org/ns/apps/sa/runner. Without: who may.")
@click.option("--action", default="IssueToken", show_default=True, help="What: a method, or UseConfig.")
@click.option("--role", default="", help="On which role: roles/ci.")
@click.option("--config", default="", help="On which config, or of which config the role is. Default: configs/default.")
@click.option("--lease-of", default="", help="For actions on leases: to whom it was granted. Default: the caller.")
@click.option("--namespace", default="", help="The namespace that is asked for.")
@click.option("--service-account", default="", help="The ServiceAccount that is asked for.")
@click.option("--audience", "audiences", multiple=True, help="An audience that is asked for. Can be repeated.")
@click.option("--ttl", default="", help="The TTL that is asked for: 600s, 10m, 1h.")
@click.option("--cluster-wide", is_flag=True, help="Ask for rights in every namespace.")
@click.option("--label", "labels", multiple=True, help="A label of the role: team=payments. Can be repeated.")
@click.option("--namespace-label", "namespace_labels", multiple=True, help="A label of the namespace.")
@click.option("--claim", "claims", multiple=True, help="A claim of the caller's token: repository=acme/shop.")
@click.option("--group", "groups", multiple=True, help="A group of the caller's token: {issuer}:{group}.")
@click.option("--pod", default="", help="The pod that a ServiceAccount's token is bound to.")
@click.option("--node", default="", help="That pod's node.")
@click.option("--proxy", default="", help="The proxy that vouches for a workload, as the settings call it.")
@click.option("--source", default="", help="The address that the call comes from.")
@click.option("--time", default="", help="When: 2026-05-04T12:00:00Z. Default: now.")
def explain(folder: Path | None, settings_file: Path | None, **given: object) -> None:
    """Say whether a caller may do something, which policies decide, and which ones nearly would.

    The policies are those in DIR. With --settings the roles are those of the server's store; else the role is taken to
    allow just what is asked, and to have the labels given. Without --caller it says who may. The exit code is 0 where
    it is allowed, 1 where not, and 2 where that cannot be told.

    \b
    A workload, by what the server has:
      kubevend-server policy explain --settings settings.toml --role roles/ci \\
        --caller spiffe://example.org/ns/apps/sa/web
    A CI job, by a folder of policies alone:
      kubevend-server policy explain policies --role roles/ci \\
        --claim ref=refs/heads/main \\
        --caller oidc://github/repo%3Aacme%2Fshop%3Aref%3Arefs%2Fheads%2Fmain
    """  # noqa: D301 - click wants the character itself
    from kubevend_server.clock import utc_now
    from kubevend_server.policy_commands import reports
    from kubevend_server.policy_commands.asked import Options, ask, ask_who

    options = Options(**given)  # type: ignore[arg-type]
    if not options.caller:
        reports.show_who(_usable(lambda: ask_who(folder, settings_file, options, utc_now)))
        return
    asked = _usable(lambda: ask(folder, settings_file, options, utc_now))
    reports.show_answer(asked)
    sys.exit(0 if asked.answer.allowed else 1)


@policy.command()
@click.argument("files", metavar="FILE|DIR...", nargs=-1, required=True, type=_FILE)
@click.option("--policies", type=_FOLDER, help="Test the policies in this folder, whatever the files say.")
def test(files: Sequence[Path], policies: Path | None) -> None:
    """Test policies by cases in YAML: FILE, or every *.yaml in DIR.

    The exit code is 1 where a case fails, and 2 where one cannot be tried. docs/policies.md has all that a file can
    have; a small one, beside the policies:

    \b
      callers:
        web: {name: "spiffe://example.org/ns/apps/sa/web"}
      roles:
        ci: {allowed_namespaces: [apps], allowed_service_accounts: [web],
             allowed_audiences: [vault]}
      cases:
      - {name: a short one, caller: web, role: ci, ttl: 10m, expect: allow}
      - {name: a long one, caller: web, role: ci, ttl: 1h, expect: deny}
    """  # noqa: D301 - click wants the character itself
    from kubevend_server.policy_commands import reports, testing

    tested = _usable(lambda: testing.run(files, policies))
    reports.show_tested(tested)
    sys.exit(0 if tested.passed else 1)


def _usable(make: Callable[[], T]) -> T:
    try:
        return make()
    except (ValueError, OSError) as error:
        # Names in files may hold what a terminal obeys.
        lines = redact(str(error)).split("\n")
        raise _Unanswered("\n".join(shown(line, _LONGEST_LINE) for line in lines)) from error

"""`kubevend issue`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click

from kubevend.cli.durations import LIFETIME
from kubevend.cli.names import ROLE
from kubevend.cli.where import connection_options, take_settings

Command = TypeVar("Command", bound=Callable[..., Any])


def token_options(command: Command) -> Command:
    """Give a command the options that say what a token is to be."""
    for option in (
        click.option("--cluster-wide", is_flag=True, help="Rights in every namespace, where the role allows them."),
        click.option("--audience", "audiences", multiple=True, help="Whom the token is for; may be given again."),
        click.option("--min-ttl", type=LIFETIME, help="Rather fail than get less than this: 10m."),
        click.option("--ttl", type=LIFETIME, help="How long it should live: 600s, 30m, 1h30m."),
        click.option("--service-account", default="", help="The ServiceAccount, where the role allows several."),
        click.option("-n", "--namespace", default="", help="Its namespace, where the role allows several."),
    ):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  kubevend issue quickstart
  kubevend issue ci -n shop --ttl 15m -o token
  kubevend issue ci --validate-only               what would happen, and why
  curl -H "Authorization: Bearer $(kubevend issue ci -o token)" ...
"""
)
@click.argument("role", shell_complete=ROLE.complete)
@token_options
@click.option("--request-id", default="", help="A UUID; the same one again gets another token of the same lease.")
@click.option("--validate-only", "--dry-run", is_flag=True, help="Tell what would happen and why, and issue nothing.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "token", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to show it; a table does not have the token itself.",
)
@connection_options
def issue(
    role: str,
    *,
    namespace: str,
    service_account: str,
    ttl: timedelta | None,
    min_ttl: timedelta | None,
    audiences: tuple[str, ...],
    cluster_wide: bool,
    request_id: str,
    validate_only: bool,
    form: str,
    **connection: Any,
) -> None:
    """Have a token issued through ROLE: `quickstart` or `roles/quickstart`."""
    from kubevend.cli.output import as_data, show_data, show_warnings, table
    from kubevend.client import Client
    from kubevend.tokens import issue_request, new_request_id

    request = issue_request(
        role,
        namespace=namespace,
        service_account_name=service_account,
        ttl=ttl,
        min_ttl=min_ttl,
        audiences=audiences,
        request_id=request_id or new_request_id(),
        validate_only=validate_only,
    )
    request.cluster_wide = cluster_wide
    with Client(take_settings(connection)) as client:
        reply = client.issuing.IssueToken(request)
    show_warnings(reply.warnings)
    if form == "token":
        click.echo(reply.token)
    elif form in ("json", "yaml"):
        show_data(form, as_data(reply))
    else:
        rows = [
            ["for", f"{reply.namespace}/{reply.service_account}"],
            ["audiences", ", ".join(reply.audiences)],
            ["until", reply.expiration.ToJsonString()],
            ["lease", reply.lease or "(none: nothing was issued)"],
            ["jti", reply.jti or "-"],
            *(["why", rule] for rule in reply.decision.rules),
            ["policies", ", ".join(reply.decision.policies)],
        ]
        click.echo(table(["ROLE", request.role], rows))
        if reply.token:
            click.echo("-o token prints the token, -o json everything.", err=True)

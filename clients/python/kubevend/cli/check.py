"""`kubevend check`."""

from __future__ import annotations

from typing import Any

import click

from kubevend.cli.names import CONFIG
from kubevend.cli.where import connection_options, take_settings

_MARKS = {"PASSED": "ok", "WARNING": "warning", "FAILED": "FAILED", "SKIPPED": "skipped"}
_CHECK_SECONDS = 60.0


@click.command(
    epilog="""\b
Examples:
  kubevend check
  kubevend check prod
  kubevend check prod -o yaml | kubectl apply -f -    grant what is missing
"""
)
@click.argument("name", metavar="[CONFIG]", default="default", shell_complete=CONFIG.complete)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to show it; yaml is the RBAC that is missing, and nothing else.",
)
@connection_options
def check(name: str, *, form: str, **connection: Any) -> int:
    """Look whether kubevend can reach the cluster of CONFIG (configs/default), and has the rights that its roles need.

    Ends with 1 where something failed; what is said of that tells what to do. -o yaml prints the least RBAC that would
    grant what is missing, for `kubectl apply`.
    """
    from kubevend.cli.output import as_data, show_data, table
    from kubevend.client import Client
    from kubevend.v1 import config_service_pb2 as pb

    full = CONFIG.full(name)
    with Client(take_settings(connection)) as client:
        found = client.configs.CheckConfig(pb.CheckConfigRequest(name=full), timeout=_CHECK_SECONDS)
    if form == "yaml":
        click.echo(found.missing_rbac or "# Nothing is missing that RBAC could grant.\n", nl=False)
    elif form == "json":
        show_data(form, as_data(found))
    else:
        rows = [[_state(each), _item(each), _place(each), each.message] for each in found.checks]
        click.echo(f"{full}, as {found.identity or 'nobody that the cluster has named'}\n")
        click.echo(table(["STATE", "WHAT", "NAMESPACE", "FOUND"], rows))
        if found.missing_rbac:
            click.echo(
                f"\nThis grants what is missing: kubevend check {CONFIG.short(name)} -o yaml | kubectl apply -f -"
            )
    return 0 if found.passed else 1


def _state(each: Any) -> str:
    from kubevend.v1 import config_service_pb2 as pb

    return _MARKS.get(pb.Check.State.Name(each.state).removeprefix("STATE_"), "?")


def _item(each: Any) -> str:
    from kubevend.v1 import config_service_pb2 as pb

    return pb.Check.Item.Name(each.item).removeprefix("ITEM_").replace("_", " ").lower()


def _place(each: Any) -> str:
    return str(each.namespace) or "-"

"""`kubevend check`."""

from __future__ import annotations

from typing import Any

import click

from kubevend.cli.where import connection_options, take_settings

_MARKS = {"PASSED": "ok", "WARNING": "warning", "FAILED": "FAILED", "SKIPPED": "skipped"}
_CHECK_SECONDS = 60.0


@click.command(
    epilog="""\b
Examples:
  kubevend check prod
  kubevend check prod -o rbac | kubectl apply -f -    grant what is missing
"""
)
@click.argument("name", metavar="[CONFIG]", default="default")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml", "rbac"]), default="table")
@connection_options
def check(name: str, *, form: str, **connection: Any) -> int:
    """Look whether kubevend can reach a cluster, and has there the rights that its roles need.

    Ends with 1 where something failed. `-o rbac` prints what would grant the missing rights.
    """
    from kubevend.cli.output import as_data, show_data, table
    from kubevend.client import Client
    from kubevend.v1 import config_service_pb2 as pb

    full = name if name.startswith("configs/") else f"configs/{name}"
    with Client(take_settings(connection)) as client:
        found = client.configs.CheckConfig(pb.CheckConfigRequest(name=full), timeout=_CHECK_SECONDS)
    if form == "rbac":
        click.echo(found.missing_rbac, nl=False)
    elif form in ("json", "yaml"):
        show_data(form, as_data(found))
    else:
        rows = [[_state(each), _item(each), each.message] for each in found.checks]
        click.echo(f"{full}, as {found.identity or 'nobody that the cluster has named'}\n")
        click.echo(table(["STATE", "WHAT", "FOUND"], rows))
        if found.missing_rbac:
            click.echo(f"\nkubevend check {name} -o rbac prints what grants the missing rights.")
    return 0 if found.passed else 1


def _state(each: Any) -> str:
    from kubevend.v1 import config_service_pb2 as pb

    return _MARKS.get(pb.Check.State.Name(each.state).removeprefix("STATE_"), "?")


def _item(each: Any) -> str:
    from kubevend.v1 import config_service_pb2 as pb

    return pb.Check.Item.Name(each.item).removeprefix("ITEM_").replace("_", " ").lower()

"""`kubevend whoami`."""

from __future__ import annotations

from typing import Any

import click

from kubevend.cli.where import connection_options, take_settings


@click.command(epilog="\b\nExample:\n  kubevend whoami -o json\n")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml", "name"]), default="table")
@connection_options
def whoami(form: str, **connection: Any) -> None:
    """Show who kubevend takes you for, and what that alone lets you do."""
    from kubevend.cli.output import as_data, show_data, table
    from kubevend.client import Client

    with Client(take_settings(connection)) as client:
        found = client.whoami()
    if form == "name":
        click.echo(found.name)
    elif form in ("json", "yaml"):
        show_data(form, as_data(found))
    else:
        rows = [
            ["kind", found.kind],
            ["known by", found.mechanism],
            *([key, value] for key, value in sorted(found.attributes.items())),
            ["groups", ", ".join(found.groups) or "-"],
            ["from", found.source_address or "a Unix socket"],
            ["may", ", ".join(found.actions) or "-"],
        ]
        click.echo(table(["NAME", found.name], rows))

"""`kubevend context`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kubevend.cli.context_file import read
from kubevend.cli.where import complete_contexts as _contexts
from kubevend.cli.where import overlay
from kubevend.connection import Settings
from kubevend.errors import ClientError


@click.group(
    epilog="""\b
Examples:
  kubevend context set prod --address kubevend.example.com:7443 --ca-file ca.crt --token-file token
  kubevend context use prod
  kubevend context set prod --ca-file new-ca.crt
  kubevend issue ci --context prod
"""
)
def context() -> None:
    """Which kubevend server to talk to, by a name.

    Contexts are in ~/.config/kubevend/config.yaml (KUBEVEND_CONFIG). What the environment says goes before the current
    context, and options before both.
    """


@context.command("list", epilog="\b\nExample:\n  kubevend context list\n")
def list_() -> None:
    """List contexts; the current one has an asterisk."""
    from kubevend.cli.output import table

    found = read(os.environ)
    rows = [["*" if name == found.current else "", name, of.get("address", "")] for name, of in found.contexts.items()]
    click.echo(table(["CURRENT", "NAME", "ADDRESS"], sorted(rows, key=lambda row: row[1])))


@context.command(epilog="\b\nExamples:\n  kubevend context show\n  kubevend context show prod\n")
@click.argument("name", default="", shell_complete=_contexts)
def show(name: str) -> None:
    """Show the context NAME, or the current one, as it is in the file."""
    import yaml

    found = read(os.environ)
    named = name or found.current
    if not named:
        raise ClientError("There is no context yet: make one with `kubevend context set`.", reason="SETTINGS_INVALID")
    click.echo(yaml.safe_dump({named: dict(found.settings(named))}, sort_keys=False), nl=False)


@context.command(epilog="\b\nExample:\n  kubevend context use prod\n")
@click.argument("name", shell_complete=_contexts)
def use(name: str) -> None:
    """Make NAME the current context."""
    found = read(os.environ)
    found.settings(name)
    found.current = name
    found.write()
    click.echo(f"Now {name} is the current context.", err=True)


@context.command(
    "set",
    epilog="\b\nExample:\n"
    "  kubevend context set prod --address kubevend.example.com:7443 --ca-file ca.crt --token-file token\n",
)
@click.argument("name", shell_complete=_contexts)
@click.option("--address", help="Where kubevend is, host:port.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The authorities that vouch for it, PEM.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file with the bearer token to call with.")
@click.option("--client-cert-file", type=click.Path(path_type=Path), help="The certificate to call with, PEM.")
@click.option("--client-key-file", type=click.Path(path_type=Path), help="Its key, PEM.")
def set_(name: str, address: str | None, **files: Path | None) -> None:
    """Make the context NAME, or change what is given of it. The first one becomes the current one."""
    found = read(os.environ)
    given = {key: str(file.absolute()) for key, file in files.items() if file is not None}
    merged: dict[str, Any] = {}
    for layer in (found.contexts.get(name, {}), {**({"address": address} if address else {}), **given}):
        overlay(merged, layer)
    Settings(**{"address": "", **merged})
    found.contexts[name] = merged
    found.current = found.current or name
    found.write()


@context.command(epilog="\b\nExample:\n  kubevend context delete prod\n")
@click.argument("name", shell_complete=_contexts)
def delete(name: str) -> None:
    """Delete the context NAME. The files that it names stay."""
    found = read(os.environ)
    found.settings(name)
    del found.contexts[name]
    found.current = "" if found.current == name else found.current
    found.write()

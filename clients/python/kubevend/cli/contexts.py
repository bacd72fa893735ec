"""`kubevend context`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kubevend.cli.context_file import Contexts, read
from kubevend.connection import Settings
from kubevend.errors import ClientError


@click.group(
    epilog="""\b
Examples:
  kubevend context set prod --address kubevend.example.com:7443 --ca-file ca.crt --token-file token
  kubevend context use prod
  kubevend issue ci --context prod
"""
)
def context() -> None:
    """Which kubevend server to talk to, by a name.

    Contexts are in ~/.config/kubevend/config.toml (KUBEVEND_CONFIG). What the environment says goes before the current
    context, and options before both.
    """


@context.command("list")
def list_() -> None:
    """List contexts; the current one has an asterisk."""
    found = read(os.environ)
    for name, settings in sorted(found.contexts.items()):
        click.echo(f"{'*' if name == found.current else ' '} {name}\t{settings.get('address', '')}")


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Make NAME the current context."""
    found = _with(name)
    found.current = name
    found.write()


@context.command("set")
@click.argument("name")
@click.option("--address", required=True, help="host:port of the server")
@click.option("--ca-file", type=click.Path(path_type=Path), help="PEM of the authorities that vouch for it")
@click.option("--token-file", type=click.Path(path_type=Path), help="a file with the token to call with")
@click.option("--client-cert-file", type=click.Path(path_type=Path), help="PEM of the certificate to call with")
@click.option("--client-key-file", type=click.Path(path_type=Path), help="PEM of its key")
def set_(name: str, address: str, **files: Path | None) -> None:
    """Make the context NAME, or change it. The first one becomes the current one."""
    paths: dict[str, Any] = {key: str(file.absolute()) for key, file in files.items() if file is not None}
    Settings(address=address, **paths)
    found = read(os.environ)
    found.contexts[name] = {"address": address, **paths}
    found.current = found.current or name
    found.write()


@context.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete the context NAME. The files that it names stay."""
    found = _with(name)
    del found.contexts[name]
    found.current = "" if found.current == name else found.current
    found.write()


def _with(name: str) -> Contexts:
    found = read(os.environ)
    if name not in found.contexts:
        raise ClientError(
            f"There is no context {name!r}; there are: {', '.join(sorted(found.contexts)) or 'none'}.",
            reason="SETTINGS_INVALID",
        )
    return found

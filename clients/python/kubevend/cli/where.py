"""Which server a command talks to, and as whom: options first, then a named context, then the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from kubevend.connection import VARIABLES, Settings
from kubevend.errors import ClientError

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = {
    "address": "Where kubevend is, host:port",
    "ca_file": "The authorities that vouch for it, PEM",
    "token_file": "A file with the bearer token to call with",
    "client_cert_file": "The certificate to call with in place of a token, PEM",
    "client_key_file": "Its key, PEM",
}


def connection_options(command: Command) -> Command:
    """Give a command the options that say where kubevend is."""
    for name, said in reversed(_OPTIONS.items()):
        option = f"--{name.replace('_', '-')}"
        kind = None if name == "address" else click.Path(path_type=Path)
        command = click.option(option, type=kind, help=f"{said} ({VARIABLES[name]}).")(command)
    return click.option(
        "--context",
        "context_name",
        shell_complete=complete_contexts,
        help="A context that says these; see `kubevend context`.",
    )(command)


def take_settings(given: dict[str, Any]) -> Settings:
    """Take the options of `connection_options` out of a command's, and say what they come to.

    Raises:
        ClientError: there is no such context, or nothing says where kubevend is.
    """
    named = given.pop("context_name", None)
    options = {name: given.pop(name, None) for name in _OPTIONS}
    return settle({name: value for name, value in options.items() if value is not None}, named, os.environ)


def settle(options: Mapping[str, Any], named: str | None, environment: Mapping[str, str]) -> Settings:
    """What options, a context and the environment come to. One of them that names a credential names all of it.

    Args:
        options: those that were given, by the names of `Settings`.
        named: the context that was given, or None.
        environment: variables.
    """
    found: dict[str, Any] = {name: environment[key] for name, key in VARIABLES.items() if environment.get(key)}
    if named is not None:
        layers = [_context(named, environment)]
    else:
        layers = [found] if "address" in found else [_context(None, environment), found]
    merged: dict[str, Any] = {}
    for layer in [*layers, dict(options)]:
        overlay(merged, layer)
    if "address" not in merged:
        raise ClientError(
            "Nothing says where kubevend is: set KUBEVEND_ADDRESS (after `make run`: `. .dev/env`), give --address, or "
            "make a context with `kubevend context set`.",
            reason="SETTINGS_INVALID",
        )
    return Settings(**merged)


def complete_contexts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell may complete the name of a context to."""
    del ctx, param
    from kubevend.cli.context_file import read

    try:
        return [name for name in read(os.environ).contexts if name.startswith(incomplete)]
    except ClientError:
        return []  # a prompt is no place to tell it; the command itself will


def overlay(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Put settings over others. Those that name a credential name all of it."""
    credential = {"token_file", "client_cert_file", "client_key_file"}
    if credential & layer.keys():
        for name in credential:
            merged.pop(name, None)
    merged.update(layer)


def _context(named: str | None, environment: Mapping[str, str]) -> Mapping[str, Any]:
    from kubevend.cli.context_file import read

    return read(environment).settings(named)

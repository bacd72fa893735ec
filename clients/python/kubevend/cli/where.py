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
    "address": "host:port of the server",
    "ca_file": "PEM of the authorities that vouch for it",
    "token_file": "a file with the token to call with",
    "client_cert_file": "PEM of the certificate to call with, in place of a token",
    "client_key_file": "PEM of its key",
}


def connection_options(command: Command) -> Command:
    """Give a command the options that say where kubevend is."""
    for name, said in reversed(_OPTIONS.items()):
        option = f"--{name.replace('_', '-')}"
        kind = None if name == "address" else click.Path(path_type=Path)
        command = click.option(option, type=kind, help=f"{said} ({VARIABLES[name]})")(command)
    return click.option("--context", "context_name", help="a context in place of these; see `kubevend context`")(
        command
    )


def take_settings(given: dict[str, Any]) -> Settings:
    """Take the options of `connection_options` out of a command's, and say what they come to.

    Raises:
        ClientError: there is no such context, or nothing says where kubevend is.
    """
    named = given.pop("context_name")
    options = {name: given.pop(name) for name in _OPTIONS}
    return settle({name: value for name, value in options.items() if value is not None}, named, os.environ)


def settle(options: Mapping[str, Any], named: str | None, environment: Mapping[str, str]) -> Settings:
    """What options, a context and the environment come to. One of them that names a credential names all of it.

    Args:
        options: those that were given, by the names of `Settings`.
        named: the context that was given, or None.
        environment: variables.
    """
    found: dict[str, Any] = {name: environment[key] for name, key in VARIABLES.items() if environment.get(key)}
    # A context that is asked for by name goes before the environment; the one that is used otherwise, after it.
    context = _context(named, environment, needed=named is not None or "address" not in found)
    layers = [context, found] if named is None else [found, context]
    merged: dict[str, Any] = {}
    for layer in [*layers, dict(options)]:
        _overlay(merged, layer)
    if "address" not in merged:
        raise ClientError(
            "Nothing says where kubevend is: set KUBEVEND_ADDRESS (after `make run`: `. .dev/env`), give --address, or "
            "make a context with `kubevend context set`.",
            reason="SETTINGS_INVALID",
        )
    return Settings(**merged)


def _overlay(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    credential = {"token_file", "client_cert_file", "client_key_file"}
    if credential & layer.keys():
        for name in credential:
            merged.pop(name, None)
    merged.update(layer)


def _context(named: str | None, environment: Mapping[str, str], *, needed: bool) -> Mapping[str, Any]:
    if not needed:
        return {}
    from kubevend.cli.context_file import read

    return read(environment).settings(named)

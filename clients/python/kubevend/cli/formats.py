"""The option that says how an answer is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "json", "yaml", "name")


def output_option(command: Command) -> Command:
    """Give a command `-o`."""
    kind = click.Choice(FORMATS)
    option = click.option(
        "-o", "--output", "form", type=kind, default="table", show_default=True, help="How to show it."
    )
    return option(command)

"""How answers are shown: a table for people, JSON and YAML for programs, in the form that grpcurl has them too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message


def as_data(message: Message) -> dict[str, Any]:
    """A message in proto JSON."""
    return json_format.MessageToDict(message)


def show_data(form: str, data: Any) -> None:
    """Print data as JSON or YAML."""
    if form == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def show(form: str, found: Message, columns: Sequence[tuple[str, Callable[[Any], str]]]) -> None:
    """Print one resource.

    Args:
        form: one of `formats.FORMATS`.
        found: the resource.
        columns: of the table, each a heading and what is in it.
    """
    if form in ("json", "yaml"):
        show_data(form, as_data(found))
    else:
        show_list(form, "", [found], columns)


def show_list(
    form: str, field: str, found: Iterable[Message], columns: Sequence[tuple[str, Callable[[Any], str]]]
) -> None:
    """Print a list of resources. `field` is what JSON and YAML call it."""
    if form in ("json", "yaml"):
        show_data(form, {field: [as_data(each) for each in found]})
    elif form == "name":
        for each in found:
            click.echo(getattr(each, "name", getattr(each, "lease", "")))
    else:
        click.echo(table([heading for heading, _ in columns], [[cell(each) for _, cell in columns] for each in found]))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as kubectl prints them."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def show_warnings(warnings: Iterable[Any]) -> None:
    """Tell warnings, on stderr."""
    for warning in warnings:
        click.echo(f"Warning: {warning.message}", err=True)

"""Resources from files, as `create -f` and `update -f` take them: YAML or JSON, one or several documents."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, TextIO, TypeVar

import click
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def read_all(file: TextIO, kind: type[M]) -> Iterator[M]:
    """The resources in a file, in its order.

    Raises:
        click.ClickException: it has what such a resource has not; the message says where, and what may be meant.
    """
    try:
        documents = [document for document in yaml.safe_load_all(file) if document is not None]
    except yaml.YAMLError as error:
        raise click.ClickException(f"{file.name} is no YAML: {error}") from error
    if not documents:
        raise click.ClickException(f"{file.name} has nothing in it.")
    for number, document in enumerate(documents, 1):
        yield _read(f"{file.name}, document {number}" if len(documents) > 1 else file.name, document, kind)


def _read(where: str, document: Any, kind: type[M]) -> M:
    if not isinstance(document, dict):
        raise click.ClickException(f"{where}: a {kind.DESCRIPTOR.name} is a mapping, with its name: {{name: …}}.")
    for key in document:
        _check_known(where, str(key), kind.DESCRIPTOR)
    message = kind()
    try:
        json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        raise click.ClickException(f"{where}: {error}") from error
    return message


def _check_known(where: str, key: str, of: Any) -> None:
    known = [*(field.json_name for field in of.fields), *(field.name for field in of.fields)]
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = (
            f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(set(known[: len(of.fields)])))}."
        )
        raise click.ClickException(f"{where}: a {of.name} has no {key}{hint}")

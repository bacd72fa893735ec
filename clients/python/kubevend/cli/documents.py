"""Resources from files, as `create -f` and `update -f` take them: YAML or JSON, one or several documents.

They can hold credentials (a config's JWT or key), so no error quotes what is in them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import click
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class FileFaultError(click.ClickException):
    """A file has what it may not have."""

    exit_code = 2


def read_all(file: TextIO, kind: type[M]) -> Iterator[M]:
    """The resources in a file, in its order.

    Raises:
        FileFaultError: it has what such a resource has not; the message says where, and what may be meant.
    """
    try:
        documents = [document for document in yaml.safe_load_all(file) if document is not None]
    except yaml.YAMLError as error:
        raise FileFaultError(f"{file.name} is no YAML{_place(error)}.") from error
    except UnicodeDecodeError as error:
        raise FileFaultError(f"{file.name} is no text.") from error
    if not documents:
        raise FileFaultError(f"{file.name} has nothing in it.")
    for number, document in enumerate(documents, 1):
        yield _read(f"{file.name}, document {number}" if len(documents) > 1 else file.name, document, kind)


def _place(error: yaml.YAMLError) -> str:
    """Where the fault is. What YAML itself says quotes the line."""
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}" if mark else ""


def _read(where: str, document: Any, kind: type[M]) -> M:
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise FileFaultError(f"{where}: a {kind.DESCRIPTOR.name} is a mapping with a name, as `get -o yaml` shows it.")
    _check(where, "", document, kind.DESCRIPTOR)
    message = kind()
    try:
        json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        raise FileFaultError(f"{where}: {_wrong_field(document, kind)}.") from error
    return message


def _check(where: str, path: str, given: Any, of: Any) -> None:
    """Refuse unknown fields, however deep, with the nearest known one."""
    if not isinstance(given, Mapping) or of.full_name.startswith("google.protobuf."):
        return
    fields = {name: field for field in of.fields for name in (field.json_name, field.name)}
    for key, value in given.items():
        field = fields.get(key)
        if field is None:
            raise FileFaultError(f"{where}: {of.name} has no field {path}{key}{_hint(str(key), of)}")
        for item in _messages(field, value):
            _check(where, f"{path}{key}.", item, field.message_type)


def _messages(field: Any, value: Any) -> Sequence[Any]:
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return []
    return value if isinstance(value, list) else [value]


def _hint(key: str, of: Any) -> str:
    known = [field.json_name for field in of.fields]
    near = difflib.get_close_matches(key, [*known, *(field.name for field in of.fields)], 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}."


def _wrong_field(document: dict[str, Any], kind: type[M]) -> str:
    """Which field has a value of another type: what protobuf itself says may quote it."""
    for key, value in document.items():
        try:
            json_format.ParseDict({key: value}, kind())
        except json_format.ParseError:
            return f"{key} has a value that it cannot have; `get -o yaml` shows how it is written"
    return "there is more than one of what excludes each other, such as credentials"

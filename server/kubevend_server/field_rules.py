"""The rules that stand in the protos, held against messages, in the words that stand there too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from kubevend.v1 import rules_pb2
from kubevend_server.errors import InvalidArgument, Violation
from kubevend_server.redaction import may_hold_credential, redact

# A message of 256 KiB can break a rule 100,000 times, and to tell each would take seconds.
_SMALL_REQUEST = 8192
# So many fit into an error, which can hold 8 KiB, each with a path, what was given, and the words of a rule.
_MOST_VIOLATIONS = 5
_LONGEST_SHOWN = 64
_NO_CREDENTIAL = (
    "must not hold a token or a private key, since what is there is stored and shown: a config's goes into "
    "service_account_jwt, into private_key or into a file, a caller's own into the authorization metadata"
)


def check_rules(message: Message, prefix: str = "") -> None:
    """Hold a message against the rules in its proto.

    Args:
        message: the message.
        prefix: what to put before the paths of its fields, as `role.`.

    Raises:
        InvalidArgument: with the fields that break their rules; of a large message, with the first one.
    """
    found = protovalidate.collect_violations(message, fail_fast=True)
    if not found:
        return
    if message.ByteSize() <= _SMALL_REQUEST:
        found = protovalidate.collect_violations(message)
    # One field can break several rules that are told in the same words.
    violations = list(dict.fromkeys(_violation(message, v, prefix) for v in found))[:_MOST_VIOLATIONS]
    what = "; ".join(f"{v.field} {v.description}" for v in violations)
    raise InvalidArgument("FIELD_INVALID", f"The request breaks rules of its fields: {what}.", violations=violations)


def check_no_credential(message: Message, payload: bytes) -> None:
    """Refuse a credential in a field that is not for one: it would be stored, shown to others and logged.

    Args:
        message: the message.
        payload: the bytes that it was parsed from.

    Raises:
        InvalidArgument: with the fields that hold one.
    """
    if not may_hold_credential(payload):
        return
    violations = [Violation(path, _NO_CREDENTIAL) for path in islice(_credentials(message), _MOST_VIOLATIONS)]
    if violations:
        what = ", ".join(v.field for v in violations)
        raise InvalidArgument(
            "FIELD_INVALID",
            f"The request has a credential where none belongs: {what} {_NO_CREDENTIAL}.",
            violations=violations,
        )


def _credentials(message: Message, prefix: str = "") -> Iterator[str]:
    """The paths of the fields that hold a credential and are not for one."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            continue
        path = prefix + field.name
        for place, item in _items(field, value):
            if isinstance(item, Message):
                yield from _credentials(item, f"{path}{place}.")
            elif isinstance(item, str) and redact(item) != item:
                yield path + place


def _items(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Any]]:
    """What is in a field, with its place there: the items of a list, the names and values of a map."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for name in value:
            yield "", name
            yield f"[{_cut(name)}]", value[name]
    elif field.is_repeated:
        for number, item in enumerate(value):
            yield f"[{number}]", item
    else:
        yield "", value


def _violation(message: Message, found: protovalidate.Violation, prefix: str) -> Violation:
    """Which field it is, what was given, and what it must be, in the words of the proto."""
    elements = list(found.proto.field.elements) if found.proto.field is not None else []
    fields = list(_fields(message, [element.field_name for element in elements]))
    names = [e.field_name + (f"[{_cut(str(e.subscript.value))}]" if e.subscript is not None else "") for e in elements]
    description = found.proto.message
    if fields and elements[-1].subscript is None:
        description = fields[-1].GetOptions().Extensions[rules_pb2.rule_message] or description
    # A map's key stands in the path.
    if not found.proto.for_key and not any(map(_may_be_secret, fields)):
        description = _given(found.field_value) + description
    return Violation(prefix + ".".join(names), description)


def _fields(message: Message, path: Sequence[str]) -> Iterator[FieldDescriptor]:
    inside: Any = message.DESCRIPTOR  # the stubs have two kinds
    for name in path:
        field = inside.fields_by_name[name]
        yield field
        inside = field.message_type
        if inside is not None and inside.GetOptions().map_entry:
            inside = inside.fields_by_name["value"].message_type


def _may_be_secret(field: FieldDescriptor) -> bool:
    """Whether a field holds a secret, or could by mistake: it stands in a oneof beside one that does."""
    choices = field.containing_oneof.fields if field.containing_oneof is not None else [field]
    return any(choice.GetOptions().debug_redact for choice in choices)


def _given(value: object) -> str:
    if value == "":
        return "is empty: "
    # What is longer tells a person nothing new.
    return f"is {value!a}: " if isinstance(value, str) and len(ascii(value)) <= _LONGEST_SHOWN else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"

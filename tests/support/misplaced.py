"""Requests that have a text where somebody could paste it: one for each field of a message that takes any text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def misplaced(descriptor: Descriptor, text: str) -> Iterator[tuple[str, Message]]:
    """Messages of one type, each with the text in another field that is not for secrets, and the field's path."""
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for path, entry in ((field.name, {text: "x"}), (f"{field.name}[x]", {"x": text})):
                message = GetMessageClass(descriptor)()
                getattr(message, field.name).update(entry)
                yield path, message
        elif field.message_type is not None:
            for path, inner in misplaced(field.message_type, text):
                message = GetMessageClass(descriptor)()
                target: Any = getattr(message, field.name)
                (target.add() if field.is_repeated else target).CopyFrom(inner)
                yield f"{field.name}{'[0]' if field.is_repeated else ''}.{path}", message
        elif field.type == field.TYPE_STRING and not field.GetOptions().debug_redact:
            message = GetMessageClass(descriptor)()
            if field.is_repeated:
                getattr(message, field.name).append(text)
            else:
                setattr(message, field.name, text)
            yield field.name + ("[0]" if field.is_repeated else ""), message

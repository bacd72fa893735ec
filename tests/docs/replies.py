"""Whether a page shows what a command really prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.shell_blocks import Block

_VARYING = (
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+]00:00)"), "TIME"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"leases/[0-9a-z]{26}"), "LEASE"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "ETAG"),
    (re.compile(r"127[.]0[.]0[.]1:[0-9]+"), "ADDRESS"),
)
_LEFT_OUT = "…"


def assert_shown(block: Block, printed: str) -> None:
    """Fail if a block did not print what the page shows after it.

    `…` stands for anything, fields may be left out, and times, ids and ports may be other ones.
    """
    if block.shown_as == "json":
        wanted = json.loads(block.shown)
        differences = [_difference(wanted, document, "") for document in _documents(printed)]
        assert "" in differences, f"line {block.line}: {differences}\nIt printed:\n{printed}"
    elif block.shown_as == "text":
        lines = iter(map(_steady, printed.splitlines()))
        for shown in block.shown.splitlines():
            assert any(_like(shown, line) for line in lines), f"line {block.line}: no {shown!r} in\n{printed}"


def _documents(text: str) -> Iterator[Any]:
    """Every JSON object that begins a line."""
    decoder, place = json.JSONDecoder(), 0
    while (begin := re.compile(r"^\{", re.MULTILINE).search(text, place)) is not None:
        try:
            document, place = decoder.raw_decode(text, begin.start())
        except json.JSONDecodeError:
            place = begin.end()
            continue
        yield document


def _difference(wanted: Any, found: Any, path: str) -> str:
    """Where the two differ first; empty where they do not."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        missing = [f"{path}.{key} is not there" for key in wanted if key not in found]
        inner = [_difference(wanted[key], found[key], f"{path}.{key}") for key in wanted if key in found]
        return next(filter(None, [*missing, *inner]), "")
    if isinstance(wanted, list) and isinstance(found, list):
        more = _LEFT_OUT in wanted[-1:]
        items = wanted[:-1] if more else wanted
        if len(found) < len(items) or (len(found) > len(items) and not more):
            return f"{path} has {len(found)} items"
        pairs = enumerate(zip(items, found, strict=False))
        return next(filter(None, (_difference(w, f, f"{path}[{place}]") for place, (w, f) in pairs)), "")
    same = type(wanted) is type(found) and (
        wanted == found or (isinstance(wanted, str) and _like(wanted, _steady(found)))
    )
    return "" if same else f"{path} is {found!r}, not {wanted!r}"


def _steady(text: str) -> str:
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text


def _like(shown: str, steady: str) -> bool:
    parts = map(re.escape, _steady(shown).strip().split(_LEFT_OUT))
    return re.fullmatch(".*".join(parts), steady.strip(), re.DOTALL) is not None

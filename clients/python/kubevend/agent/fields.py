"""The fields of a YAML file, taken out one by one; all that is wrong is told at once, by its path."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import yaml

from kubevend.cli.durations import LIFETIME


class Section:
    """A mapping. What is taken out of it is known; what is left in the end is a fault."""

    def __init__(self, content: Any, path: str, faults: list[str]) -> None:
        """Take the content, its path in the file (empty for the file itself), and where faults are told."""
        self._content: dict[str, Any] = content if isinstance(content, dict) else {}
        self._path = path
        self._known: set[str] = set()
        self.faults = faults
        if content and not isinstance(content, dict):
            self.fault("", "must be a mapping of names to values")
            self.faults = []  # what else is wrong with it comes of that

    def fault(self, key: str, what: str) -> None:
        """Say what is wrong with a field, or with the section itself."""
        self.faults.append(f"{self.path_of(key)}: {what}{'' if what.endswith('?') else '.'}")

    def path_of(self, key: str) -> str:
        """A field's path in the file."""
        return ".".join(part for part in (self._path, key) if part) or "the file"

    def has(self, key: str) -> bool:
        """Whether a field is there."""
        self._known.add(key)
        return key in self._content

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """A text, which is not empty where it is required."""
        found: object = self._take(key, default)
        if not isinstance(found, str):
            self.fault(key, "must be a text")
            return default
        if required and not found:
            self.fault(key, "is missing")
        return found

    def file(self, key: str, *, required: bool = False) -> Path | None:
        """The path of a file, from the current folder on."""
        text = self.text(key, required=required)
        return Path(text).absolute() if text else None

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of some texts."""
        found = self.text(key, default)
        if found not in allowed:
            self.fault(key, f"is {found!r}, and must be {' or '.join(allowed)}{_near(found, allowed)}")
            return default
        return found

    def flag(self, key: str) -> bool:
        """True or false; false where it is not there."""
        return self.choice(key, ("true", "false"), "false") == "true"

    def lifetime(self, key: str) -> timedelta | None:
        """A duration, as 30m."""
        text = self.text(key)
        try:
            return LIFETIME.convert(text, None, None) if text else None
        except click.BadParameter as error:
            self.fault(key, error.message)
            return None

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """A list of texts, of which there is one at least where they are required."""
        found = self._take(key, [])
        good = isinstance(found, list) and all(isinstance(item, str) for item in found)
        if not good or (required and not found):
            self.fault(key, "must be a list of texts, as [one, two]")
            return ()
        return tuple(found)

    def section(self, key: str) -> Section:
        """A mapping; an empty one where it is not there."""
        return Section(self._take(key, {}), self.path_of(key), self.faults)

    def sections(self, key: str) -> list[Section]:
        """A list of mappings, of which there is one at least."""
        found = self._take(key, [])
        if not isinstance(found, list) or not found:
            self.fault(key, "must be a list of one or more")
            return []
        return [Section(item, f"{self.path_of(key)}[{place}]", self.faults) for place, item in enumerate(found)]

    def one_of(self, *keys: str) -> str:
        """Which one of some fields is there; empty where it is not exactly one, which is a fault."""
        there = [key for key in keys if self.has(key)]
        if len(there) != 1:
            self.fault("", f"must have one of {', '.join(keys)}, and has {' and '.join(there) or 'none'}")
        return there[0] if len(there) == 1 else ""

    def end(self) -> None:
        """Tell the fields that nobody knows."""
        for key in self._content:
            if key not in self._known:
                self.fault(str(key), f"is not known{_near(str(key), sorted(self._known))}")

    def _take(self, key: str, default: Any) -> Any:
        return self._content[key] if self.has(key) else default


def _near(text: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(text, known, 1)
    return f": did you mean {near[0]}?" if near else f": known are {', '.join(known)}"


def load(text: str) -> Any:
    """Load YAML with every scalar as the text that it is written as: 0600 stays that.

    Raises:
        yaml.YAMLError: it is none, or a name is there twice.
    """
    # BaseLoader makes nothing but texts, lists and mappings.
    return yaml.load(text, _Texts)  # noqa: S506


class _Texts(yaml.BaseLoader):
    """A loader that refuses a name which is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping."""
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)

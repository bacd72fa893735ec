"""What cases expect of answers: values, and names of what earlier steps have answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = re.compile(r"\$(\w+)((?:\.\w+)*)")


def resolve(value: Any, known: Mapping[str, Any]) -> Any:
    """Put in what `$name` and `$name.field` stand for, in text, lists and mappings.

    Raises:
        KeyError: there is no such name, or it has no such field.
    """
    if isinstance(value, Mapping):
        return {key: resolve(each, known) for key, each in value.items()}
    if isinstance(value, list):
        return [resolve(each, known) for each in value]
    if not isinstance(value, str):
        return value
    whole = _NAME.fullmatch(value)
    return _look_up(whole, known) if whole else _NAME.sub(lambda found: str(_look_up(found, known)), value)


def _look_up(found: re.Match[str], known: Mapping[str, Any]) -> Any:
    value = known[found.group(1)]
    for field in filter(None, found.group(2).split(".")):
        value = value[field]
    return value


def differences(expected: Any, found: Any, path: str = "answer") -> list[str]:
    """In what an answer is not as it was expected. A mapping may have more than is expected of it.

    `{not: x}`, `{contains: x}`, `{matches: regex}`, `{at_least: n}`, `{at_most: n}`, `{length: n}` and `{absent: true}`
    expect what they say.
    """
    if isinstance(expected, Mapping):
        if len(expected) == 1 and (check := _CHECKS.get(next(iter(expected)))):
            ((word, operand),) = expected.items()
            return [] if check(operand, found) else [f"{path} is {found!r}, expected: {word} {operand!r}"]
        if not isinstance(found, Mapping):
            return [f"{path} is {found!r}, expected: {dict(expected)!r}"]
        return [
            difference
            for key, each in expected.items()
            for difference in differences(each, found.get(key), f"{path}.{key}")
        ]
    return [] if expected == found else [f"{path} is {found!r}, expected: {expected!r}"]


_CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "not": lambda operand, found: found is not None and bool(differences(operand, found)),
    "contains": lambda operand, found: found is not None and operand in found,
    "matches": lambda operand, found: isinstance(found, str) and re.search(operand, found) is not None,
    "at_least": lambda operand, found: isinstance(found, int | float) and found >= operand,
    "at_most": lambda operand, found: isinstance(found, int | float) and found <= operand,
    "length": lambda operand, found: isinstance(found, list) and len(found) == operand,
    "absent": lambda operand, found: (found is None) == operand,
}

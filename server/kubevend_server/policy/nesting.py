"""How deep policies may be nested: Cedar's parser has no bound of its own, and takes the process with it.

Measured with cedarpy 4.12: a thousand brackets in one another, or 5,000 conditions in a row, overflow the stack; and
what has more than some 60 conditions in a row is parsed and validated, but not read from its JSON again.
"""

from __future__ import annotations

import json
import re
from typing import Any

import cedarpy

_PIECE = re.compile(r'"(?:\\.|[^"\\])*"?|//[^\n\r]*|&&|\|\||\bif\b|[;()\[\]{}.+*]', re.DOTALL)
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_MOST_BRACKETS = 64
_MOST_OPERATORS = 1000
_MOST_LEVELS = 120
"""serde_json takes 128 levels, and around a policy there are two."""

_WHAT_TO_DO = "for many values write [...].contains(...) or in [...], or several policies"


class TooDeepError(ValueError):
    """Policies that Cedar may not be given; the message says what to do."""


def read_cedar(text: str) -> Any:
    """Cedar's JSON of a text.

    Raises:
        TooDeepError: what is in it is nested too deep.
        ValueError: it does not parse.
    """
    _check_text(text)
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except RecursionError:
        raise _too_deep("") from None
    for policy in parsed["staticPolicies"].values():
        if _levels(policy) > _MOST_LEVELS:
            raise _too_deep(policy.get("annotations", {}).get("id") or "")
    return parsed


def _check_text(text: str) -> None:
    brackets = operators = 0
    for found in _PIECE.finditer(text):
        piece = found[0]
        if piece == ";":
            brackets = operators = 0
            continue
        brackets += (piece in _OPENING) - (piece in _CLOSING)
        # An index is an operator, too.
        operators += piece == "[" or not piece.startswith(('"', "//", *_OPENING, *_CLOSING))
        if brackets > _MOST_BRACKETS:
            raise TooDeepError(f"a policy has more than {_MOST_BRACKETS} brackets in one another: {_WHAT_TO_DO}")
        if operators > _MOST_OPERATORS:
            raise TooDeepError(f"a policy has more than {_MOST_OPERATORS} operators: {_WHAT_TO_DO}")


def _too_deep(identity: str) -> TooDeepError:
    which = f"the policy {identity!r}" if identity else "a policy"
    return TooDeepError(f"{which} has too many conditions in one another, or joined by && or ||: {_WHAT_TO_DO}")


def _levels(parsed: Any) -> int:
    """How many levels a JSON value has; more than the most are not counted."""
    levels, within = 0, [parsed]
    while within and levels <= _MOST_LEVELS:
        within = [each for one in within for each in _members(one)]
        levels += 1
    return levels


def _members(parsed: Any) -> list[Any]:
    if isinstance(parsed, dict):
        return list(parsed.values())
    return parsed if isinstance(parsed, list) else []

"""The policies of a text, one by one, with the lines that they stand on: Cedar's errors have no places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import cedarpy

# A string may hold what would else end a policy or begin a comment. Nothing else in Cedar has a semicolon: its grammar
# (https://docs.cedarpolicy.com/policies/syntax-grammar.html) ends each policy with one.
_PIECE = re.compile(r'"(?:\\.|[^"\\])*"?|//[^\n\r]*|;|[^\s";/]+|/', re.DOTALL)
_CUT_OFF = "unexpected end of input"
_WORD = re.compile(r"`(.+?)`|: (\w+)$")
_ASSIGNMENT = re.compile(r"(?<![=<>!])=(?!=)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy of a text, from its first annotation to its semicolon; `line` is where it begins, counted from 1."""

    text: str
    line: int


def split(text: str) -> list[Statement]:
    """Take the policies out of a text, whether or not they parse."""
    return list(_statements(text))


def _statements(text: str) -> Iterator[Statement]:
    begin = None
    end = 0
    for piece in _PIECE.finditer(text):
        if piece[0].startswith("//"):
            continue
        begin = piece.start() if begin is None else begin
        end = piece.end()
        if piece[0] == ";":
            yield Statement(text[begin:end], _line(text, begin))
            begin = None
    if begin is not None:
        yield Statement(text[begin:end], _line(text, begin))


def line_of_fault(statement: Statement, fault: str) -> int:
    """The line on which a policy goes wrong, or begins where that cannot be told.

    Args:
        statement: the policy.
        fault: what Cedar says of it.
    """
    ends = [newline.start() for newline in re.finditer("\n", statement.text)]
    for place, end in enumerate(ends):
        # What is good so far is only cut off; the first line with which something else is said is the one.
        if _fault(statement.text[:end]) not in ("", _CUT_OFF):
            return statement.line + place
    if fault.startswith("unexpected token"):
        return statement.line + len(ends)
    found = list(_words(fault).finditer(statement.text))
    return statement.line + statement.text.count("\n", 0, found[0].start()) if len(found) == 1 else statement.line


def _words(fault: str) -> re.Pattern[str]:
    """What a fault names, to be looked for in the text."""
    if "'=' is not a valid operator" in fault:
        return _ASSIGNMENT
    named = _WORD.search(fault)
    return re.compile(rf"(?<!\w){re.escape(named[1] or named[2])}(?!\w)" if named else r"(?!)")


def _fault(text: str) -> str:
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error)
    return ""


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1

"""Verification of the audit log: has a line been changed, left out, put in, or cut off the end?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from kubevend_server.audit.chain import BrokenLine, Head, read_line


@dataclass(slots=True)
class Report:
    """What verification found.

    Attributes:
        first: the sequence of the first line; above 1, older files were not given.
        lines: how many lines are whole and in place.
        torn: how many fragments a crash left; the chain goes on after each, so nothing is missing.
        faults: what must not be, one sentence each; empty if the log is sound.
    """

    first: int = field(default=0, compare=False)
    lines: int = 0
    torn: int = 0
    faults: list[str] = field(default_factory=list)


def verify(lines: Iterable[bytes], key: bytes, committed: Head) -> Report:
    """Check the lines of a log, the oldest first, over all its files.

    Args:
        lines: the lines, with or without their newlines. The first need not be the first of the log.
        key: the audit key.
        committed: the last line that the store knows to have been on the disk.

    Returns:
        The report. A fragment counts as torn by a crash only if the line after it joins on to the line before it.
    """
    report = Report()
    last: Head | None = None
    fragments: list[tuple[int, bytes]] = []
    at_head = ""
    for number, line in _numbered(lines):
        try:
            link = read_line(line, key)
        except BrokenLine:
            fragments.append((number, line))
            continue
        before = last or Head()
        joins = link.previous_hash == before.hash and link.sequence == before.sequence + 1
        if last is not None and not joins:
            report.faults.append(
                f"line {number}: sequence {link.sequence} does not join on to sequence {last.sequence}: "
                "lines were changed, left out or put in"
            )
        _tell(report, fragments, joins=joins)
        fragments = []
        report.lines += 1
        if last is None:
            report.first = link.sequence
        last = link.head
        if link.sequence == committed.sequence:
            at_head = link.hash
    # At the very end there is no next line to tell whether something is missing; the committed head does.
    _tell(report, fragments, joins=True)
    _check_head(report, last or Head(), at_head, committed)
    return report


def _tell(report: Report, fragments: list[tuple[int, bytes]], *, joins: bool) -> None:
    """Tell the fragments that crashes left from lines that somebody changed or put in."""
    for number, line in fragments:
        # A crash leaves the beginning of a line, which is never a whole JSON object.
        if joins and not _is_whole(line):
            report.torn += 1
        else:
            report.faults.append(f"line {number}: it is not a line of this log, or was changed")


def _is_whole(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # A crash may cut a letter of several bytes in two.
        return False
    return True


def _check_head(report: Report, last: Head, at_head: str, committed: Head) -> None:
    if last.sequence < committed.sequence:
        report.faults.append(
            f"the log ends with sequence {last.sequence}, but the store knows that {committed.sequence} was on the "
            "disk: the end was cut off"
        )
    elif committed.sequence and not at_head:
        report.faults.append(
            f"sequence {committed.sequence}, which the store knows, is not among these lines: give all files of the log"
        )
    elif committed.sequence and at_head != committed.hash:
        report.faults.append(
            f"sequence {committed.sequence} is not the line that the store knows: the end was replaced"
        )


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, start=1):
        stripped = line.rstrip(b"\n")
        if stripped:
            yield number, stripped

"""The audit log's file: lines go to its end, chained; nothing else is ever done to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kubevend_server.audit.chain import BrokenLine, Head, close_line, read_line
from kubevend_server.clock import Clock
from kubevend_server.encryption import sync_folder
from kubevend_server.redaction import redact_json

Event = Mapping[str, Any]
"""The proto JSON form of an AuditEvent, without `sequence`, `time`, `previousHash` and `hash`."""

_LAST_LINES = 1 << 20
_LONGEST_END = 1 << 25
"""How far back the last whole line is looked for, in bytes. What a request says can come to 1.5 MiB in its line."""

_PRIVATE = 0o600


class InUseError(OSError):
    """Another process writes to the audit file; two would break each other's chain."""


class AuditLog:
    """Appends events to the audit file.

    Not safe for threads: the journal, on the event loop's thread, is its only user.
    """

    def __init__(self, path: Path, key: bytes, committed: Head, clock: Clock) -> None:
        """Open the log and go on where it ended.

        Args:
            path: the file; made, for its owner only, where there is none.
            key: the audit key.
            committed: the last line that the store knows to be on the disk. If the file ends before it, lines have
                been taken away; the chain goes on from here, so that verification shows the gap.
            clock: stamps the lines.

        Raises:
            OSError: the file cannot be opened.
        """
        self._path = path
        self._key = key
        self._clock = clock
        self._descriptor = _open(path)
        self.found = _end_last_line(self._descriptor, path, key)
        self.head = self.found if self.found.sequence >= committed.sequence else committed
        processors: list[structlog.types.Processor] = [self._stamp, self._encode, self._chain]
        self._logger = _Events(self, processors, {})

    def append(self, event: Event) -> None:
        """Write one event to the end of the file, without a sync.

        Raises:
            OSError: it could not be written whole. Call `rewind` to take back what was.
        """
        self._logger.append(event)

    def sync(self) -> None:
        """Bring what was written onto the disk.

        Raises:
            OSError: the disk did not take it.
        """
        os.fdatasync(self._descriptor)

    def mark(self) -> tuple[int, Head]:
        """Where the file ends now, for `rewind`."""
        return os.fstat(self._descriptor).st_size, self.head

    def rewind(self, mark: tuple[int, Head]) -> None:
        """Take back the lines since `mark`: none of them was committed, and no answer left that rests on them.

        Raises:
            OSError: the file cannot be cut. Then its lines stay, and the chain goes on after them.
        """
        size, head = mark
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:
            self.head = _end_last_line(self._descriptor, self._path, self._key)
            raise
        self.head = head

    def reopen(self) -> None:
        """Open the file by its name again, after it was moved away; the chain goes on in the new one."""
        self.sync()
        if _is_at(self._descriptor, self._path):
            return
        fresh = _open(self._path)
        os.close(self._descriptor)
        self._descriptor = fresh

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        os.close(self._descriptor)

    def line(self, line: bytes) -> None:
        """Write one whole line; the last step of structlog's chain."""
        while line:
            line = line[os.write(self._descriptor, line) :]

    def _stamp(self, _logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        place = {"sequence": str(self.head.sequence + 1), "time": rfc3339(self._clock())}
        return {**place, **event, "previousHash": self.head.hash}

    def _encode(self, _logger: object, _name: str, event: MutableMapping[str, Any]) -> bytes:
        return redact_json(msgspec.json.encode(event))

    def _chain(self, _logger: object, _name: str, body: Any) -> bytes:
        line, digest = close_line(body, self._key)
        self.head = Head(self.head.sequence + 1, digest)
        return line


class _Events(structlog.BoundLoggerBase):
    """structlog's logger for events: fields in, one chained line out."""

    def append(self, event: Event) -> None:
        self._proxy_to_logger("line", **event)


def rfc3339(moment: datetime) -> str:
    """Write a moment as proto JSON does, in microseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _open(path: Path) -> int:
    # Readable too: the end is read once at the start.
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    if is_new:
        sync_folder(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InUseError(
            f"{path} is written by another kubevend-server: each needs an audit file of its own."
        ) from error
    return descriptor


def _end_last_line(descriptor: int, path: Path, key: bytes) -> Head:
    """Find the last whole line. A torn one, which a crash leaves, is ended, so that the next line stands alone."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return Head()
    if os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    # Further back each time, since a line may be longer than what is mostly enough.
    for length in (_LAST_LINES, _LONGEST_END):
        # Of the first of these lines there may be only the end.
        for line in reversed(os.pread(descriptor, length, max(0, size - length)).split(b"\n")):
            try:
                return read_line(line, key).head
            except BrokenLine:
                continue
    structlog.get_logger().error("audit_log_unreadable", file=str(path), hint="no line of it fits the audit key")
    return Head()

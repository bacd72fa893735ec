"""The agent's log: JSON, one line for each event, on stderr. No token is ever given to it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


class Log:
    """Writes lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Take where to; stderr, where it is not said."""
        self._stream = stream or sys.stderr

    def info(self, event: str, **facts: Any) -> None:
        """Say what happened."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Say what went wrong, and may come right by itself."""
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Say what somebody has to look at."""
        self._write("error", event, facts)

    def take_over(self) -> None:
        """Have what the library logs written here, too."""
        logger = logging.getLogger("kubevend")
        logger.addHandler(_Handler(self))
        logger.propagate = False

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": level, "event": event, **{k: v for k, v in facts.items() if v not in (None, "")}}
        self._stream.write(json.dumps(line, default=str) + "\n")
        self._stream.flush()


class _Handler(logging.Handler):
    """Hands the library's lines on."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one: what it says, and of an exception its kind alone, since its text may quote anything."""
        kind = record.exc_info[0] if record.exc_info else None
        self._log.error("library", message=record.getMessage(), exception=kind and kind.__name__)

"""A client library's driver: a program that does with its library what it is told, one JSON object a line.

The protocol is told in `README.md` beside this file.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread
from typing import Any

_SLOWEST_SECONDS = 90
"""For one command: a driver that has not answered by then is stuck."""

Answer = dict[str, Any]


class Driver:
    """A driver that runs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it.

        Args:
            command: the program with its arguments.
            environment: where its kubevend and its cluster are.
            log: where what it says on stderr goes.
        """
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=dict(environment)
            )
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[Answer]] = {}
        self._lock = Lock()
        self.said: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, command: Mapping[str, Any]) -> Answer:
        """Have something done, and wait for the answer."""
        return self.begin(command).result(_SLOWEST_SECONDS)

    def begin(self, command: Mapping[str, Any]) -> Future[Answer]:
        """Have something done. The answer comes when it does."""
        number, answer = next(self._ids), Future[Answer]()
        with self._lock:
            self._waiting[number] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **command}) + "\n")
        self._process.stdin.flush()
        return answer

    def finish(self) -> int:
        """Close its stdin, upon which it ends. Returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it does not end, so something of its library goes on; it is killed.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.said.append(line)
                answer = json.loads(line)
                with self._lock:
                    waiting = self._waiting.pop(answer.pop("id"))
                waiting.set_result(answer)
        with self._lock:
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.set_exception(RuntimeError(f"the driver has ended; it said:\n{self._log.read_text()[-2000:]}"))

"""The TypeScript library's driver, told what to do by one JSON object a line: clients/typescript/conformance."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.typescript import build_library


class Driver:
    """A driver that runs. `said` is all that it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take its process."""
        self._process = process
        self._count = 0
        self.said = ""

    def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """Have something done, and return the answer once it comes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        self._process.stdin.write(json.dumps({"id": self._count, "do": what, **fields}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        self.said += line
        answer: dict[str, Any] = json.loads(line)
        assert answer.pop("id") == self._count
        return answer

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        """The same, where it must not fail."""
        answer = self.ask(what, **fields)
        assert "error" not in answer, answer
        return answer


@contextmanager
def driving(environment: Mapping[str, str], log: Path) -> Iterator[Driver]:
    """A driver with these KUBE… variables and no others. It ends with 0 once its stdin does; stderr goes to the log."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    command = ["node", str(build_library() / "conformance" / "driver.js")]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**inherited, **environment},
        )
    with process:
        driver = Driver(process)
        try:
            yield driver
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()

"""The TypeScript library's driver, told what to do: clients/typescript/conformance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.driver import Driver as Program
from tests.conformance.languages import command


class Driver:
    """A driver that runs."""

    def __init__(self, program: Program) -> None:
        """Take its program."""
        self._program = program

    def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """Have something done, and return the answer once it comes."""
        return self._program.ask({"do": what, **fields})

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        """The same, where it must not fail."""
        answer = self.ask(what, **fields)
        assert "error" not in answer, answer
        return answer


@contextmanager
def driving(environment: Mapping[str, str], folder: Path) -> Iterator[Driver]:
    """A driver with these KUBE… variables and no others. It ends with 0 once its stdin does.

    What it says goes into the folder, a server's, which is looked through for tokens.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    log = folder / "driver.log"
    program = Program(command("typescript"), {**inherited, **environment}, log)
    try:
        yield Driver(program)
    finally:
        code = program.finish()
        (folder / "driver.jsonl").write_text("".join(program.said))
    assert code == 0, log.read_text()

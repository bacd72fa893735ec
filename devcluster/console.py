"""What the first run says, on a terminal and in a file alike."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Event, Thread

from rich.console import Console as RichConsole
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

_STILL_SECONDS = 15


class Step:
    """One step while it runs.

    Attributes:
        result: What it came to, shown when it is done.
    """

    def __init__(self, console: Console) -> None:
        self.result = "done"
        self._console = console

    def say(self, line: str) -> None:
        """Tell about its progress."""
        self._console.line(f"  {line}", style="dim")


class Console:
    """Prints steps, facts and commands. Commands are never wrapped, so that they can be copied."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that lacks a character gets a question mark, not a crash.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._rich = RichConsole(highlight=False, markup=False, soft_wrap=True)
        self._errors = RichConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line, or several."""
        self._rich.print(Text(text, style=style), soft_wrap=True)
        self._rich.file.flush()

    def heading(self, text: str) -> None:
        """Print a heading, after an empty line."""
        self.line()
        self.line(text, style="bold")

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print names and values, the values below each other."""
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            self._rich.print(Text.assemble("  ", (f"{name:<{width}}", "cyan"), "  ", value), soft_wrap=True)
        self._rich.file.flush()

    def error(self, text: str) -> None:
        """Print what went wrong, on stderr."""
        self._errors.print(Text(text, style="red"), soft_wrap=True)

    def ask(self, question: str) -> bool:
        """Ask on the terminal; anything but yes is no."""
        self._rich.print(Text(f"{question} [y/N] "), end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show that something is under way, for how long, and what it came to."""
        began = time.monotonic()
        step = Step(self)
        with self._spinner(title) if self._rich.is_terminal else self._still(title):
            yield step
        seconds = time.monotonic() - began
        # Where the lines are not overwritten, the title stands above already.
        about = f"{title}: " if self._rich.is_terminal else ""
        self._rich.print(
            Text.assemble(("✓ ", "green"), about, step.result, (f" ({seconds:.1f} s)", "dim")), soft_wrap=True
        )
        self._rich.file.flush()

    @contextlib.contextmanager
    def _spinner(self, title: str) -> Iterator[None]:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self._rich, transient=True) as progress:
            progress.add_task(title, total=None)
            yield

    @contextlib.contextmanager
    def _still(self, title: str) -> Iterator[None]:
        """Without a terminal: say what begins, and every few seconds that it goes on."""
        self.line(f"… {title}")
        over = Event()
        teller = Thread(target=self._tell, args=(title, over), daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()

    def _tell(self, title: str, over: Event) -> None:
        began = time.monotonic()
        while not over.wait(_STILL_SECONDS):
            self.line(f"  still at it after {time.monotonic() - began:.0f} s: {title}", style="dim")

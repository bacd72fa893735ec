"""The shell commands of a Markdown page: taken out, and run as a reader would run them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_FENCE = re.compile(r"```([a-z]*)\s*")
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->")
_SECTION = re.compile(r"## (.+)")
_MARK = "\x1e"
"""ASCII's record separator, which no command prints by itself."""


@dataclass(frozen=True, slots=True)
class Block:
    """A ```sh block.

    Attributes:
        line: the line of the page on which it begins, counted from 1.
        section: the `##` heading that it stands under.
        text: the commands.
        runs: whether it is run; not so where a comment `<!-- not run: REASON -->` stands before it.
        reason: why it is not run.
        shown_as: the kind of the block after it that shows what it prints: `json`, `text`, or empty.
        shown: that block.
    """

    line: int
    section: str
    text: str
    runs: bool = True
    reason: str = ""
    shown_as: str = ""
    shown: str = ""


def read_blocks(page: str) -> list[Block]:
    """Take the ```sh blocks out of a page, in their order.

    Raises:
        ValueError: a block does not end.
    """
    blocks: list[Block] = []
    section, before = "", ""
    lines = iter(enumerate(page.splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            heading = _SECTION.fullmatch(line)
            section = heading[1] if heading else section
            before = line.strip() or before
            continue
        content: list[str] = []
        for _, inner in lines:
            if inner.rstrip() == "```":
                break
            content.append(inner)
        else:
            raise ValueError(f"the block that begins on line {number} does not end")
        text = "\n".join(content) + "\n"
        if fence[1] == "sh":
            skipped = _NOT_RUN.fullmatch(before)
            blocks.append(Block(number, section, text, runs=not skipped, reason=skipped[1] if skipped else ""))
        elif fence[1] in ("json", "text") and blocks and not blocks[-1].shown:
            blocks[-1] = replace(blocks[-1], shown_as=fence[1], shown=text)
        before = ""
    return blocks


def run_blocks(
    blocks: Sequence[Block], folder: Path, environment: Mapping[str, str], seconds: float = 120
) -> list[tuple[Block, str]]:
    """Run those blocks that are run, one after the other in one `bash -euo pipefail`.

    What the blocks leave running is ended with the shell.

    Args:
        blocks: the blocks.
        folder: the shell's current folder.
        environment: the shell's whole environment.
        seconds: how long all of it may take.

    Returns:
        Each of them with what it printed, to stdout and stderr.

    Raises:
        AssertionError: one of them failed, or took too long; with its text and what it printed.
    """
    running = [block for block in blocks if block.runs]
    script = "".join(f"printf '{_MARK}'\n{block.text}" for block in running)
    output = folder / ".shell-output"
    with output.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended: int | str = shell.wait(seconds)
        except subprocess.TimeoutExpired:
            ended = f"not within {seconds} s"
        finally:
            _end_group(shell)
    printed = output.read_text(errors="replace").split(_MARK)[1:]
    done = list(zip(running, printed, strict=False))
    if ended != 0:
        block, last = done[-1]
        raise AssertionError(f"The block on line {block.line} failed ({ended}):\n{block.text}\nIt printed:\n{last}")
    return done


def _end_group(shell: subprocess.Popen[bytes]) -> None:
    """End whatever the shell started and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()

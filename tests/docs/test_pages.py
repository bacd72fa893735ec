"""That the tests of the pages would notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.replies import assert_shown
from tests.support.shell_blocks import read_blocks, run_blocks

PAGE = """
## First

```sh
echo '{"a":"2026-01-01T00:00:00Z","b":[1,2]}'
```

```json
{"a": "2027-11-24T05:21:53Z", "b": [1, "…"]}
```

<!-- not run: there is no such command -->
```sh
nothing
```

<!-- not run: -->
```sh
nothing
```

```sh
echo said; (exit 3)
```
"""


def test_blocks_are_taken_in_order_with_what_they_show() -> None:
    """Each block has its section, what it shows, and why it is not run."""
    first, reasoned, unreasoned, last = read_blocks(PAGE)

    assert (first.section, first.line, first.shown_as, first.runs) == ("First", 4, "json", True)
    assert (reasoned.runs, reasoned.reason) == (False, "there is no such command")
    assert (unreasoned.runs, unreasoned.reason) == (False, "")
    assert (last.runs, last.shown) == (True, "")
    with pytest.raises(ValueError, match="line 2 does not end"):
        read_blocks("\n```sh\nls")


def test_a_block_that_fails_is_told(tmp_path: Path) -> None:
    """The error has the block and what it printed."""
    with pytest.raises(AssertionError, match=r"failed \(3\):\necho said; \(exit 3\)\n\nIt printed:\nsaid\n"):
        run_blocks(read_blocks(PAGE), tmp_path, os.environ)


def test_what_is_shown_is_held_against_what_comes(tmp_path: Path) -> None:
    """Times may differ and more items may come; another value, another type or a field too many may not."""
    (_, printed), *_ = run_blocks(read_blocks(PAGE)[:1], tmp_path, os.environ)

    for shown, passes in (
        ('{"a": "2027-11-24T05:21:53Z", "b": [1, "…"]}', True),
        ('{"b": [1]}', False),
        ('{"b": [1, "2"]}', False),
        ('{"c": 1}', False),
        ('{"a": "later"}', False),
    ):
        (block,) = read_blocks(f"```sh\ntrue\n```\n```json\n{shown}\n```")
        if passes:
            assert_shown(block, printed)
        else:
            with pytest.raises(AssertionError):
                assert_shown(block, printed)

"""The `kubevend` command. Nothing is imported before it is needed: kubectl waits for it at every call."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run it."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["credential"] and "_KUBEVEND_COMPLETE" not in os.environ:
        from kubevend.cli.warm import answer

        kept = answer(arguments)
        if kept is not None:
            sys.stdout.write(f"{kept}\n")
            return
    from kubevend.cli.exits import run
    from kubevend.cli.root import kubevend

    sys.exit(run(kubevend, prog_name="kubevend"))

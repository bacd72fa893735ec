"""The `kubevend` command. Nothing is imported before it is needed: kubectl waits for it at every call."""

from __future__ import annotations

import sys


def main() -> None:
    """Run it."""
    from kubevend.cli.exits import run
    from kubevend.cli.root import kubevend

    sys.exit(run(kubevend, prog_name="kubevend"))

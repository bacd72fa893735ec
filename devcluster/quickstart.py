"""`make run`: a cluster, a server, a first token; in the foreground until Ctrl-C.

This module minds only how the program ends. What it does is in `first_run`, told from top to bottom.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from devcluster.stopping import Stopped, StopSignals, end_descendants


def main() -> int:
    """Run until a signal, and leave no process behind.

    Returns:
        0 when it was stopped after it was ready, 1 when something failed, else 128 and the signal's number.
    """
    signals = StopSignals()
    cleanup = ExitStack()
    try:
        signals.install()
        return _run(signals, cleanup)
    except Stopped:
        return 128 + (signals.received or signal.SIGINT)
    finally:
        signals.ignore()
        try:
            cleanup.close()
        finally:
            end_descendants()


def _run(signals: StopSignals, cleanup: ExitStack) -> int:
    # Imported only now: it takes a second, in which a signal should already end the program in good order.
    from devcluster.first_run import FirstRun  # noqa: PLC0415

    default = Path(__file__).resolve().parents[1] / ".dev"
    return FirstRun(Path(os.environ.get("KUBEVEND_DEV_DIR") or default), signals, cleanup).run()


if __name__ == "__main__":
    sys.exit(main())

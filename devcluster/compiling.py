"""Compile the Go commands in a process group that can be stopped as a whole.

`go build` runs a compiler process for each package, and these outlive a `go` that is terminated.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from devcluster.golang import GoError

_PROGRAM = """
import sys
from devcluster import GoError, devcluster_binary, grpcurl
try:
    devcluster_binary()
    grpcurl()
except GoError as error:
    print(error)
    sys.exit(1)
"""


def compile_commands(tell: Callable[[str], None]) -> bool:
    """Compile devcluster and grpcurl, unless the cache has them.

    Args:
        tell: Called with each line of progress.

    Returns:
        Whether there was anything to do.

    Raises:
        GoError: One could not be compiled; the message says what to do.
    """
    compiler = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    told = False
    try:
        assert compiler.stdout is not None  # noqa: S101 - it is a pipe
        assert compiler.stderr is not None  # noqa: S101 - it is a pipe
        with compiler.stdout, compiler.stderr:
            for line in compiler.stderr:
                tell(line.rstrip())
                told = True
            failure = compiler.stdout.read()
        compiler.wait()
    finally:
        if compiler.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(compiler.pid, signal.SIGTERM)
            compiler.wait()
    if compiler.returncode != 0:
        raise GoError(failure.strip() or f"the compilation ended with status {compiler.returncode}")
    # Nothing is told where the cache has both.
    return told

"""What to type to run this once more in another way, with whatever else was set kept."""

from __future__ import annotations

import os
import shlex
import socket
from itertools import count
from pathlib import Path

_VARIABLES = ("KUBECONFIG", "KUBEVEND_DEV_DIR", "KUBEVEND_YES", "KUBEVEND_PORT")
_FIRST_PORT = 7444


def run_again(**changed: str) -> str:
    """The command that does what this run was to do, but for some variables; an empty one is left out.

    The environment does not tell what was exported from what stood before the command, so all of it is repeated.
    """
    chosen = {name: os.environ.get(name, "") for name in _VARIABLES} | changed
    words = [f"{name}={shlex.quote(value)}" for name, value in chosen.items() if value]
    return " ".join([*words, "make run"])


def another_folder() -> str:
    """A state folder in the current folder that is not there yet, as in ".dev-2"."""
    return next(name for name in (f".dev-{number}" for number in count(2)) if not Path(name).exists())


def another_port() -> str:
    """A port of 127.0.0.1 that is free, as in "7444"."""
    return next(str(port) for port in count(_FIRST_PORT) if why_not(port) is None)


def why_not(port: int) -> OSError | None:
    """Why nobody can listen on a port of 127.0.0.1; None where one can."""
    with socket.socket() as probe:
        # As the server does it: the remains of closed connections are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error
    return None

"""A crowd of connections that come, most of them to no good, and go all at once."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.support.raw_http2 import RawConnection

CROWD = 200
_ISSUE = "/kubevend.v1.IssueService/IssueToken"


def come_and_go(address: str, ca_file: Path) -> None:
    """Open `CROWD` connections, and close them: some never speak, some stop half-way, some ask and do not listen."""
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for number in range(CROWD):
            if number % 4 == 0:
                stack.enter_context(socket.create_connection((host, int(port))))
                continue
            connection = stack.enter_context(RawConnection(address, ca_file))
            if number % 4 > 1:
                connection.begin(1, _ISSUE, {"authorization": "Bearer nonsense"})
                connection.send(1, bytes(100), end=number % 4 == 2)

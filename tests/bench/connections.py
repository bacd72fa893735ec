"""`make bench-connections`: what 10,000 connections that come and go leave in the server's memory."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from pathlib import Path

import click
import msgspec
import psutil

from devcluster.server import KubevendServer
from tests.bench.table import markdown
from tests.support.crowd import CROWD, come_and_go
from tests.support.waiting import until

MOST = 1.05
"""How many times its memory after the first tenth of them the server's may be in the end."""


def main() -> None:
    """Let crowds come and go, print what was left after each tenth of them, and write it to the JSON file."""
    arguments = _parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        server = KubevendServer(Path(folder))
        server.start()
        try:
            rows, seconds = _measure(server, arguments.connections)
        finally:
            server.stop()
    click.echo(markdown(["connections", "RSS MB", "descriptors"], [[str(cell) for cell in row] for row in rows]))
    times = rows[-1][1] / rows[1][1]
    click.echo(f"\nIn the end {times:.2f} times the memory after the first tenth; {MOST} at most. {seconds:.0f} s.")
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "times": times, "reached": times <= MOST, "rows": rows}
    arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _parse() -> Namespace:
    parser = ArgumentParser("python -m tests.bench.connections", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000, help="how many come and go")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-connections.json"), help="where to write all figures"
    )
    return parser.parse_args()


def _measure(server: KubevendServer, connections: int) -> tuple[list[tuple[int, float, int]], float]:
    process = psutil.Process(server.pid)
    rows: list[tuple[int, float, int]] = []
    began = time.monotonic()
    crowds = connections // CROWD
    for number in range(1, crowds + 1):
        come_and_go(server.address, server.folder / "ca.crt")
        if number == 1 or number % max(1, crowds // 10) == 0:
            until(lambda: len(process.net_connections()) == 1, "the connections to be gone")
            rows.append((number * CROWD, round(process.memory_info().rss / 1e6, 1), process.num_fds()))
    return rows, time.monotonic() - began


if __name__ == "__main__":
    main()

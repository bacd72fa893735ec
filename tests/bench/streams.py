"""`make bench-streams`: what 1,000 streams of tokens cost that are open and wait."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from devcluster import DevCluster
from devcluster.server import KubevendServer
from kubevend.v1 import config_service_pb2
from tests.bench.table import markdown
from tests.support.client import Client
from tests.support.clusters import install, make_namespace

MOST_MB = 50.0
MOST_CPU_SHARE = 0.01
"""Of one CPU, beyond what the server takes with no stream open: less is not told from nothing."""
_CONNECTIONS = 8
_WARMING_UP = 200


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        streams: how many were open.
        seconds: for how long the CPU time was counted, with and without them.
        before_mb, after_mb, closed_mb: the server's RSS before they were opened, while they are, and after that.
        idle_cpu, cpu: CPU seconds of the server in that time, without and with them.
    """

    streams: int
    seconds: float
    before_mb: float
    after_mb: float
    closed_mb: float
    idle_cpu: float
    cpu: float

    @property
    def reached(self) -> bool:
        """Whether they cost as little as they may."""
        return self.after_mb - self.before_mb < MOST_MB and (self.cpu - self.idle_cpu) < MOST_CPU_SHARE * self.seconds


def main() -> None:
    """Open them, wait, print what that cost, and write it to the JSON file."""
    arguments = _parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with ExitStack() as stack:
        cluster = stack.enter_context(DevCluster.start())
        server = KubevendServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        server.start()
        stack.callback(server.stop)
        admin = _prepare(server, cluster)
        with closing(admin):
            report = _measure(server, admin, arguments.streams, arguments.seconds)
    rows = [
        ["RSS before, MB", f"{report.before_mb:.1f}"],
        [f"RSS with {report.streams} streams, MB", f"{report.after_mb:.1f}"],
        ["RSS after they were closed, MB", f"{report.closed_mb:.1f}"],
        [f"CPU s in {report.seconds:.0f} s without streams", f"{report.idle_cpu:.2f}"],
        [f"CPU s in {report.seconds:.0f} s with them", f"{report.cpu:.2f}"],
    ]
    click.echo(markdown(["", "found"], rows))
    kilobytes = (report.after_mb - report.before_mb) * 1000 / report.streams
    click.echo(f"\n{kilobytes:.0f} kB a stream; {'reached' if report.reached else 'not reached'}.")
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    found = {"machine": machine, "reached": report.reached, **asdict(report)}
    arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


def _parse() -> Namespace:
    parser = ArgumentParser("python -m tests.bench.streams", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="how many are open")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long the CPU time is counted")
    parser.add_argument("--output", type=Path, default=Path("bench-streams.json"), help="where to write all figures")
    return parser.parse_args()


def _prepare(server: KubevendServer, cluster: DevCluster) -> Client:
    install(cluster)
    make_namespace(cluster, "bench")
    admin = Client(server.address, server.folder / "ca.crt", server.admin_token)
    config = config_service_pb2.Config(
        kubernetes_host=cluster.server,
        kubernetes_ca_cert=cluster.ca_file.read_text(),
        service_account_jwt=cluster.token("kubevend", "kubevend"),
    )
    admin.call(admin.configs.CreateConfig, config_service_pb2.CreateConfigRequest(config_id="default", config=config))
    admin.create_role(allowed_namespaces=["bench"])
    return admin


def _measure(server: KubevendServer, admin: Client, streams: int, seconds: float) -> Report:
    process = psutil.Process(server.pid)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        # Until what it keeps for any issuance is there: statements, decisions, connections.
        list(pool.map(lambda _: admin.issue(), range(_WARMING_UP)))
        before = _megabytes(process)
        idle = _cpu(process, seconds)
        callers = [Client(server.address, server.folder / "ca.crt", server.admin_token) for _ in range(_CONNECTIONS)]
        opened = list(pool.map(lambda number: _open(callers[number % _CONNECTIONS]), range(streams)))
    busy = _cpu(process, seconds)
    after = _megabytes(process)
    for stream in opened:
        stream.cancel()
    for caller in callers:
        caller.close()
    time.sleep(1)
    return Report(streams, seconds, before, after, _megabytes(process), idle, busy)


def _open(caller: Client) -> Any:
    stream = caller.stream("roles/ci", timeout=3600)
    next(stream)
    return stream


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def _cpu(process: psutil.Process, seconds: float) -> float:
    """CPU seconds in so many seconds, a moment from now: what was just done may have something to tidy up."""
    time.sleep(3)
    began = process.cpu_times()
    time.sleep(seconds)
    ended = process.cpu_times()
    return float(ended.user - began.user + ended.system - began.system)


if __name__ == "__main__":
    main()

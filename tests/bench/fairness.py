"""`make bench-fairness`: what a caller who asks for one token at a time notices of another one who asks for 64."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec

from devcluster.cluster import DevCluster
from devcluster.server import BOOTSTRAP_POLICY, KubevendServer
from tests.bench import subjects
from tests.bench.measure import Load, load_program
from tests.bench.processes import Disturbance, since, usage
from tests.bench.table import markdown
from tests.support.clusters import install

GREEDY = 64
MOST = 2.0
"""How many times its p99 alone the quiet caller's may be."""
LEAD_SECONDS = 2.0
"""For which the greedy caller has been asking when the quiet one begins to be measured."""

POLICY = (
    BOOTSTRAP_POLICY
    + """
@id("greedy")
permit (principal is ServiceAccount, action in [Action::"IssueToken", Action::"GetRole"], resource is Role);
"""
)


@dataclass(frozen=True)
class Round:
    """What the quiet caller saw alone, and beside the greedy one; and what that one saw, alone and beside it.

    Attributes:
        others: the share of the machine's CPUs that went to anything else meanwhile.
    """

    alone: Load
    beside: Load
    greedy_alone: Load
    greedy_beside: Load
    others: float

    @property
    def times(self) -> float:
        """How many times its p99 alone the quiet caller's was beside the greedy one."""
        return self.beside.p99_ms / self.alone.p99_ms


@dataclass(frozen=True)
class Bench:
    """What is measured with: the load program, how each of the two callers is told to ask, and whom they keep busy."""

    program: Path
    options: Mapping[str, Sequence[str]]
    pids: Mapping[str, int]
    seconds: float

    def round(self) -> Round:
        """Measure each alone, then both together."""
        disturbance, before = Disturbance(), usage(self.pids)
        loads = self._loads()
        served = sum(process.cpu_seconds for process in since(before, usage(self.pids)).values())
        return Round(*loads, disturbance.share(served + sum(load.client_cpu_seconds for load in loads)))

    def _loads(self) -> tuple[Load, Load, Load, Load]:
        alone = _finish(self._begin("quiet", 1, 1, self.seconds))
        greedy_alone = _finish(self._begin("greedy", GREEDY, LEAD_SECONDS, self.seconds))
        # The greedy one asks until the quiet one is done.
        greedy = self._begin("greedy", GREEDY, LEAD_SECONDS, self.seconds + 1)
        beside = _finish(self._begin("quiet", 1, LEAD_SECONDS, self.seconds))
        return alone, beside, greedy_alone, _finish(greedy)

    def _begin(self, who: str, callers: int, warmup: float, seconds: float) -> subprocess.Popen[bytes]:
        command = [str(self.program), "-mode=kubevend", *self.options[who], f"-callers={callers}"]
        command += [f"-warmup={warmup}s", f"-duration={seconds}s"]
        return subprocess.Popen(command, stdout=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> Load:
    out, _ = process.communicate()
    load = msgspec.json.decode(out, type=Load)
    if process.returncode or load.errors or not load.count:
        raise SystemExit(f"{load.errors} errors; the first: {load.first_error}")
    return load


def main() -> None:
    """Measure in rounds, print a table, and write everything to the JSON file."""
    arguments = _parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    program = load_program()
    with tempfile.TemporaryDirectory() as folder, DevCluster.start(signing_key="rsa") as cluster:
        install(cluster)
        subjects.make_namespaces(cluster)
        with _serving(cluster, Path(folder), arguments) as (options, pids):
            bench = Bench(program, options, pids, arguments.seconds)
            rounds = [bench.round() for _ in range(arguments.rounds)]
    click.echo(_render(rounds))
    times = [each.times for each in rounds]
    found = median(times)
    click.echo(
        f"\nThe quiet caller's p99 is {found:.2f} times what it is alone ({min(times):.2f} to {max(times):.2f}); at "
        f"most {MOST:g} is the target. Others took {median(each.others for each in rounds):.0%} of the CPUs."
    )
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "times": found, "reached": found <= MOST, "rounds": rounds}
    arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _parse() -> Namespace:
    parser = ArgumentParser("python -m tests.bench.fairness", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=6, help="for each measurement")
    parser.add_argument("--issuing-per-cluster", type=int, default=0, help="limits.issuing_per_cluster; 0: its default")
    parser.add_argument("--output", type=Path, default=Path("bench-fairness.json"), help="where to write all figures")
    return parser.parse_args()


@contextmanager
def _serving(
    cluster: DevCluster, folder: Path, arguments: Namespace
) -> Iterator[tuple[Mapping[str, Sequence[str]], Mapping[str, int]]]:
    """Start a server that both may ask: the quiet one is the bootstrap admin, the greedy one a ServiceAccount.

    Returns:
        How the load program is told to ask as each of them, and the process IDs of all that serves them, by name.
    """
    server = _make_server(cluster, folder, arguments)
    paces = {1: subjects.Pace(timedelta(seconds=1), timedelta(seconds=arguments.seconds))}
    greedy = folder / "greedy.token"
    with subjects.kubevend(cluster, server, paces) as vended:
        greedy.write_text(
            cluster.token(subjects.NAMESPACE, "kubevend", audience="kubevend", duration=timedelta(hours=2))
        )
        (plain,) = [subject for subject in vended if subject.name == "kubevend"]
        others = [option for option in plain.options if not option.startswith("-token-file=")]
        yield {"quiet": plain.options, "greedy": [*others, f"-token-file={greedy}"]}, plain.pids


def _make_server(cluster: DevCluster, folder: Path, arguments: Namespace) -> KubevendServer:
    reviewer = folder / "reviewer.token"
    reviewer.write_text(cluster.token("kubevend", "kubevend", duration=timedelta(hours=2)))
    clusters = {
        "bench": {"kubernetes_host": cluster.server, "ca_file": str(cluster.ca_file), "token_file": str(reviewer)}
    }
    overrides: dict[str, dict[str, Any]] = {
        "kubernetes": {"credential_folders": {str(folder / "kubevend"): ["*"]}},
        "leases": {"reconcile_seconds": 86400.0},
        "callers": {"clusters": clusters},
    }
    if arguments.issuing_per_cluster:
        overrides["limits"] = {"issuing_per_cluster": arguments.issuing_per_cluster}
    return KubevendServer(folder / "kubevend", overrides=overrides, policies=POLICY)


def _render(rounds: Sequence[Round]) -> str:
    def row(name: str, loads: Sequence[Load]) -> list[str]:
        figures = [(each.tokens_per_second, each.p50_ms, each.p99_ms) for each in loads]
        rate, middle, tail = (median(column) for column in zip(*figures, strict=True))
        return [name, f"{rate:.0f}", f"{middle:.1f}", f"{tail:.1f}"]

    return markdown(
        ["", "tokens/s", "p50 ms", "p99 ms"],
        [
            row("quiet caller alone", [each.alone for each in rounds]),
            row(f"quiet caller beside {GREEDY}", [each.beside for each in rounds]),
            row(f"greedy caller alone, {GREEDY} at once", [each.greedy_alone for each in rounds]),
            row("greedy caller beside the quiet one", [each.greedy_beside for each in rounds]),
        ],
    )


if __name__ == "__main__":
    main()

"""`make bench`: measure kubevend against the API server asked directly and OpenBao, on a development cluster."""

import os
import platform
import tempfile
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from devcluster.cluster import DevCluster
from devcluster.server import KubevendServer
from tests.bench import results, subjects, table
from tests.bench.durability import look
from tests.bench.measure import Cell, load_program, measure
from tests.bench.processes import usage
from tests.bench.subjects import Pace, Subject

CALLERS = (1, 8, 32)
DISTURBED = 0.1
"""The share of the CPUs from which on others make a measurement worth repeating."""
WARMUP = timedelta(seconds=1)
OPENBAO_PACES = {
    # It lets 10 tokens through at once and then 5 a second, so the warm-up goes on until those waiting have
    # had their turn; what is measured is what goes on for ever.
    1: Pace(timedelta(seconds=3), timedelta(seconds=5)),
    8: Pace(timedelta(seconds=4), timedelta(seconds=5)),
    32: Pace(timedelta(seconds=9), timedelta(seconds=6)),
}


def main() -> None:
    """Measure in rounds, print the tables, and write everything to the JSON file."""
    arguments = _parse()
    # It would keep the server's bytecode away, which costs memory that no deployment pays.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    program = load_program()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(DevCluster.start(signing_key="rsa"))
        server = subjects.make_server(folder / "kubevend")
        measured = _enter(stack, cluster, server, folder, arguments)
        bench = Bench(program, measured, arguments.attempts)
        rounds = [bench.round(backwards=number % 2 == 1) for number in range(arguments.rounds)]
        rss_mb = usage({"kubevend": server.pid})["kubevend"].rss_mb
        durability = look(server, bench.handed_out())
    compared, ratios = results.comparisons(rounds), results.ratios(rounds)
    targets = results.targets(compared, ratios, rss_mb, durability)
    click.echo(table.render(results.rows(rounds), compared, ratios, targets))
    click.echo(f"\naudit verify: {durability.verification}")
    others = max(_disturbance(cells.values()) for cells in rounds)
    click.echo(f"Others took {others:.0%} of the CPUs in the most disturbed measurement.")
    report = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "rows": results.rows(rounds),
        "comparisons": compared,
        "ratios": ratios,
        "targets": targets,
        "durability": durability,
        "rounds": [list(cells.values()) for cells in rounds],
    }
    arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _parse() -> Namespace:
    parser = ArgumentParser("python -m tests.bench", formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=4, help="for each measurement but OpenBao's")
    parser.add_argument("--attempts", type=int, default=3, help="how often at the most, where others disturb it")
    parser.add_argument("--no-openbao", action="store_true", help="where its package does not exist")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="where to write all figures")
    return parser.parse_args()


def _enter(
    stack: ExitStack, cluster: DevCluster, server: KubevendServer, folder: Path, arguments: Namespace
) -> list[Subject]:
    subjects.make_namespaces(cluster)
    paces = dict.fromkeys(CALLERS, Pace(WARMUP, timedelta(seconds=arguments.seconds)))
    vended = stack.enter_context(subjects.kubevend(cluster, server, paces))
    by_name = {subject.name: subject for subject in (*subjects.direct(cluster, folder, paces), *vended)}
    # What is compared is measured one right after the other.
    found = [by_name[name] for name in table.SUBJECTS if name in by_name]
    if not arguments.no_openbao:
        found.append(stack.enter_context(subjects.openbao(cluster, folder, OPENBAO_PACES)))
    return found


class Bench:
    """Measures in rounds, and keeps what it measured.

    Attributes:
        cells: every measurement, those too that were thrown away because of others on the machine.
    """

    def __init__(self, program: Path, measured: Sequence[Subject], attempts: int) -> None:
        self._program = program
        self._measured = measured
        self._attempts = attempts
        self.cells: list[Cell] = []

    def round(self, *, backwards: bool) -> results.Round:
        """Measure everything once, in one order or the other: what grows meanwhile is not always the same's burden."""
        cells = {
            (cell.subject, cell.callers): cell for callers in CALLERS for cell in self._calmest(callers, backwards)
        }
        return {key: cells[key] for key in ((each.name, count) for count in CALLERS for each in self._measured)}

    def _calmest(self, callers: int, backwards: bool) -> list[Cell]:
        """Measure all subjects one after the other; again, if others disturb that, but not for ever."""
        attempts: list[list[Cell]] = []
        order = self._measured[::-1] if backwards else self._measured
        while len(attempts) < self._attempts and (not attempts or _disturbance(attempts[-1]) > DISTURBED):
            attempts.append([self._measure(subject, callers) for subject in order])
        return min(attempts, key=_disturbance)

    def _measure(self, subject: Subject, callers: int) -> Cell:
        cell = measure(self._program, subject, callers)
        self.cells.append(cell)
        rate = f"{cell.load.tokens_per_second:.0f} tokens/s"
        click.echo(f"{subject.name} at {callers}: {rate}, {cell.others:.0%} of the CPUs to others", err=True)
        return cell

    def handed_out(self) -> int:
        """How many tokens kubevend's callers got."""
        return sum(cell.load.issued for cell in self.cells if cell.subject.startswith("kubevend"))


def _disturbance(cells: Iterable[Cell]) -> float:
    # OpenBao waits for its own limit most of the time, so others on the machine change nothing for it.
    return max(cell.others for cell in cells if cell.subject != "openbao")


if __name__ == "__main__":
    main()

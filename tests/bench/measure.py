"""One measurement: the load program asks one subject, and the processes are looked at before and after."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from devcluster.build import build
from tests.bench.processes import Disturbance, Usage, since, usage
from tests.bench.subjects import Subject

LOAD_MODULE = Path(__file__).resolve().parent / "load"


class LoadError(Exception):
    """The load program failed, or got errors in place of tokens."""


@dataclass(frozen=True)
class Load:
    """What the load program reports; `load/measure.go` tells what each figure means."""

    count: int
    tokens_per_second: float
    p50_ms: float
    p99_ms: float
    issued: int
    errors: int
    first_error: str
    client_cpu_seconds: float


@dataclass(frozen=True)
class Cell:
    """One subject at one number of callers in one round.

    Attributes:
        subject: its name.
        callers: how many asked at once.
        load: what they saw.
        used: what each process used meanwhile, warm-up included.
        others: the share of the machine's CPUs that went to anything else meanwhile.
    """

    subject: str
    callers: int
    load: Load
    used: Mapping[str, Usage]
    others: float

    def cpu_ms_per_token(self, process: str) -> float:
        """CPU time in ms that a process took for each token, those of the warm-up included."""
        return self.used[process].cpu_seconds * 1000 / self.load.issued


def load_program() -> Path:
    """Return the compiled load program.

    Raises:
        devcluster.golang.GoError: it could not be compiled.
    """
    return build(LOAD_MODULE, ".", "benchload", ldflags="-s -w", takes="half a minute")


def measure(program: Path, subject: Subject, callers: int) -> Cell:
    """Measure a subject with some callers.

    Raises:
        LoadError: the program failed, or not every request brought a token.
    """
    pace = subject.paces[callers]
    command = [
        str(program),
        f"-mode={subject.mode}",
        *subject.options,
        f"-callers={callers}",
        f"-warmup={pace.warmup.total_seconds()}s",
        f"-duration={pace.duration.total_seconds()}s",
    ]
    disturbance = Disturbance()
    before = usage(subject.pids)
    done = subprocess.run(command, capture_output=True, check=False)
    used = since(before, usage(subject.pids))
    if done.returncode != 0:
        raise LoadError(f"{subject.name}: {done.stderr.decode()}")
    load = msgspec.json.decode(done.stdout, type=Load)
    if load.errors or not load.count:
        raise LoadError(f"{subject.name}, {callers} callers: {load.errors} errors; the first: {load.first_error}")
    ours = load.client_cpu_seconds + sum(process.cpu_seconds for process in used.values())
    cell = Cell(subject.name, callers, load, used, disturbance.share(ours))
    subject.clean()
    return cell

"""What the rounds come to: medians of the cells, ratios within each round, and the targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.durability import Durability
from tests.bench.measure import Cell
from tests.bench.processes import Usage

Round = Mapping[tuple[str, int], Cell]
"""The cells of one round, by subject and callers."""


@dataclass(frozen=True)
class Row:
    """The medians over all rounds of one subject at one number of callers."""

    subject: str
    callers: int
    tokens_per_second: float
    p50_ms: float
    p99_ms: float
    used: Mapping[str, Usage]
    cpu_ms_per_token: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """A figure that was taken once in each round.

    Attributes:
        median: over the rounds.
        low: the least.
        high: the greatest.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """kubevend beside the others at one number of callers, each ratio taken within one round.

    Attributes:
        callers: how many.
        of_direct: kubevend's tokens/s over those of TokenRequest direct.
        of_openbao: the same over OpenBao's; None where OpenBao was not measured.
        added_p50_ms: kubevend's p50 less that of TokenRequest direct.
    """

    callers: int
    of_direct: Spread
    of_openbao: Spread | None
    added_p50_ms: Spread


@dataclass(frozen=True)
class Ratio:
    """What one subject reaches of another one's tokens/s, taken within each round.

    Attributes:
        what: of what to what.
        found: by number of callers.
    """

    what: str
    found: Mapping[int, Spread]


@dataclass(frozen=True)
class Target:
    """One thing to reach: what, how much there is, and whether that is enough."""

    what: str
    found: str
    reached: bool


_RATIOS = {
    "direct: bound to unbound": ("direct-bound", "direct"),
    "kubevend: PER_CALLER to NONE": ("kubevend-per-caller", "kubevend"),
    "kubevend: PER_ROLE to NONE": ("kubevend-per-role", "kubevend"),
    "PER_LEASE to its calls direct": ("kubevend-per-lease", "direct-per-lease"),
    "kubernetes_role to its calls direct": ("kubevend-kubernetes-role", "direct-kubernetes-role"),
    "generated_role to its calls direct": ("kubevend-generated-role", "direct-generated-role"),
}
OF_BINDING = "PER_CALLER to NONE, of direct's bound to unbound"


def rows(rounds: Sequence[Round]) -> list[Row]:
    """Take the medians of each cell over the rounds, in the order of the first."""
    return [_row([cells[key] for cells in rounds]) for key in rounds[0]]


def comparisons(rounds: Sequence[Round]) -> list[Comparison]:
    """Compare within each round, so that what the machine does meanwhile is the same for both."""
    callers = sorted({key[1] for key in rounds[0]})
    return [_compare(rounds, count) for count in callers]


def ratios(rounds: Sequence[Round]) -> list[Ratio]:
    """What kubevend reaches of the calls that it cannot do without, and what a shared anchor costs."""
    callers = sorted({key[1] for key in rounds[0]})

    def each(figure: Callable[[Round, int], float]) -> dict[int, Spread]:
        return {count: _spread([figure(cells, count) for cells in rounds]) for count in callers}

    def ratio(cells: Round, count: int, one: str, other: str) -> float:
        return _throughput_ratio(cells[one, count], cells[other, count])

    found = [
        Ratio(what, each(lambda cells, count, pair=pair: ratio(cells, count, *pair)))  # type: ignore[misc]
        for what, pair in _RATIOS.items()
    ]
    costs = each(
        lambda cells, count: (
            ratio(cells, count, "kubevend-per-caller", "kubevend") / ratio(cells, count, "direct-bound", "direct")
        )
    )
    return [*found, Ratio(OF_BINDING, costs)]


def targets(
    compared: Sequence[Comparison], ratios_: Sequence[Ratio], rss_mb: float, durability: Durability
) -> list[Target]:
    """Hold what was found against what is to be reached. `rss_mb`: of the kubevend server, at the end."""
    few, many = compared[0], compared[-1]
    found = [_at_least(f"of direct's tokens/s at {many.callers} callers", 0.5, many.of_direct.median)]
    if many.of_openbao is not None:
        found.append(_at_least(f"times OpenBao's tokens/s at {many.callers} callers", 50, many.of_openbao.median))
    binding = next(each.found for each in ratios_ if each.what == OF_BINDING)
    return [
        *found,
        *(_at_least(f"for {OF_BINDING}, at {count} callers", 0.95, binding[count].median) for count in binding),
        _at_most(f"ms on top of direct's p50 at {few.callers} caller", 2.5, few.added_p50_ms.median),
        _at_most("MB of RSS of the server at the end", 150, rss_mb),
        Target(
            "a lease and an audit line on the disk for every token",
            f"{durability.handed_out} tokens, {durability.leases} leases, {durability.audit_lines} lines",
            durability.complete,
        ),
    ]


def _row(cells: Sequence[Cell]) -> Row:
    first = cells[0]

    def middle(figure: Callable[[Cell], float]) -> float:
        return median(map(figure, cells))

    return Row(
        subject=first.subject,
        callers=first.callers,
        tokens_per_second=middle(lambda cell: cell.load.tokens_per_second),
        p50_ms=middle(lambda cell: cell.load.p50_ms),
        p99_ms=middle(lambda cell: cell.load.p99_ms),
        used={
            name: Usage(
                median(cell.used[name].cpu_seconds for cell in cells),
                median(cell.used[name].rss_mb for cell in cells),
            )
            for name in first.used
        },
        cpu_ms_per_token={name: median(cell.cpu_ms_per_token(name) for cell in cells) for name in first.used},
    )


def _compare(rounds: Sequence[Round], callers: int) -> Comparison:
    def each(other: str, figure: Callable[[Cell, Cell], float]) -> Spread:
        found = [figure(cells["kubevend", callers], cells[other, callers]) for cells in rounds]
        return _spread(found)

    measured = ("openbao", callers) in rounds[0]
    return Comparison(
        callers=callers,
        of_direct=each("direct", _throughput_ratio),
        of_openbao=each("openbao", _throughput_ratio) if measured else None,
        added_p50_ms=each("direct", lambda ours, theirs: ours.load.p50_ms - theirs.load.p50_ms),
    )


def _spread(found: Sequence[float]) -> Spread:
    return Spread(median(found), min(found), max(found))


def _throughput_ratio(ours: Cell, theirs: Cell) -> float:
    return ours.load.tokens_per_second / theirs.load.tokens_per_second


def _at_least(what: str, bound: float, found: float) -> Target:
    return Target(f"at least {bound:g} {what}", f"{found:.2f}", found >= bound)


def _at_most(what: str, bound: float, found: float) -> Target:
    return Target(f"at most {bound:g} {what}", f"{found:.1f}", found <= bound)

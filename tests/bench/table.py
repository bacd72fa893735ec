"""The results as Markdown tables, for a terminal and for `docs/performance.md` alike."""

from collections.abc import Sequence

from tests.bench.results import Comparison, Ratio, Row, Spread, Target

SUBJECTS = {
    "direct": "TokenRequest direct",
    "direct-bound": "TokenRequest direct, bound",
    "kubevend": "kubevend",
    "kubevend-per-caller": "kubevend, PER_CALLER",
    "kubevend-per-role": "kubevend, PER_ROLE",
    "direct-per-lease": "Secret and bound TokenRequest direct",
    "kubevend-per-lease": "kubevend, PER_LEASE",
    "direct-kubernetes-role": "RoleBinding, ServiceAccount and TokenRequest direct",
    "kubevend-kubernetes-role": "kubevend, kubernetes_role",
    "direct-generated-role": "Role, RoleBinding, ServiceAccount and TokenRequest direct",
    "kubevend-generated-role": "kubevend, generated_role",
    "openbao": "OpenBao",
}
"""What is measured, in the order in which it is."""
SERVERS = ("kubevend", "openbao", "kube-apiserver", "etcd")
"""The processes in the order of their columns, as far as they took part."""


def render(
    rows: Sequence[Row], compared: Sequence[Comparison], ratios: Sequence[Ratio], targets: Sequence[Target]
) -> str:
    """Return all tables as one text."""
    return "\n\n".join([_measured(rows), _used(rows), _compared(compared), _ratios(ratios), _reached(targets)])


def _measured(rows: Sequence[Row]) -> str:
    head = ["", "callers", "tokens/s", "p50 ms", "p99 ms"]
    lines = [[*_cell(row), f"{row.tokens_per_second:.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}"] for row in rows]
    return markdown(head, lines)


def _used(rows: Sequence[Row]) -> str:
    servers = [name for name in SERVERS if any(name in row.used for row in rows)]
    head = ["CPU ms per token (RSS MB)", "callers", *servers]
    return markdown(head, [[*_cell(row), *(_used_by(row, name) for name in servers)] for row in rows])


def _used_by(row: Row, name: str) -> str:
    if name not in row.used:
        return ""
    return f"{row.cpu_ms_per_token[name]:.2f} ({row.used[name].rss_mb:.0f})"


def _cell(row: Row) -> list[str]:
    return [SUBJECTS[row.subject], str(row.callers)]


def _compared(compared: Sequence[Comparison]) -> str:
    head = ["kubevend, median of the rounds (range)", *(_callers(found.callers) for found in compared)]
    lines = [
        ["of direct's tokens/s", *(_spread(found.of_direct, 2) for found in compared)],
        ["times OpenBao's tokens/s", *(_spread(found.of_openbao, 0) for found in compared)],
        ["ms on top of direct's p50", *(_spread(found.added_p50_ms, 1) for found in compared)],
    ]
    return markdown(head, lines)


def _ratios(ratios: Sequence[Ratio]) -> str:
    head = ["ratio of tokens/s, median of the rounds (range)", *map(_callers, ratios[0].found)]
    return markdown(head, [[each.what, *(_spread(found, 2) for found in each.found.values())] for each in ratios])


def _callers(count: int) -> str:
    return f"{count} caller" if count == 1 else f"{count} callers"


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "not measured"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def _reached(targets: Sequence[Target]) -> str:
    lines = [[found.what, found.found, "reached" if found.reached else "not reached"] for found in targets]
    return markdown(["target", "found", ""], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * max(width, 3) for width in widths]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, rule, *lines])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)

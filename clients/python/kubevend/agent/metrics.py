"""The agent's metrics, in Prometheus' text format.

See https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kubevend.agent.keeping import Keeper

_BY_OUTPUT: list[tuple[str, str, str, Callable[[Keeper], float]]] = [
    ("renewals_total", "counter", "Tokens that came.", lambda k: k.tally.renewals),
    ("failures_total", "counter", "Times that the next token could not be had.", lambda k: k.tally.failures),
    ("write_failures_total", "counter", "Times that files could not be written.", lambda k: k.tally.write_failures),
    (
        "expires_in_seconds",
        "gauge",
        "For how long the token in the files is good; 0: not at all.",
        lambda k: k.seconds_left,
    ),
    ("last_change_timestamp_seconds", "gauge", "When files last changed; 0: never.", lambda k: k.tally.changed_at),
]


def text(keepers: Sequence[Keeper]) -> str:
    """All of them."""
    lines: list[str] = []
    for name, kind, said, value in _BY_OUTPUT:
        lines += _family(name, kind, said, ((_label("output", k.output.name), value(k)) for k in keepers))
    lines += _family("changes_told_total", "counter", "Commands and signals of on_change.", _results(keepers))
    ready = all(keeper.seconds_left > 0 for keeper in keepers)
    lines += _family("ready", "gauge", "Whether every output holds a token that is good.", [("", float(ready))])
    return "\n".join([*lines, ""])


def _results(keepers: Sequence[Keeper]) -> Iterable[tuple[str, float]]:
    for keeper in keepers:
        for result in ("succeeded", "failed", "timed_out"):
            labels = f"{_label('output', keeper.output.name)},{_label('result', result)}"
            yield labels, getattr(keeper.action.counts, result)


def _family(name: str, kind: str, said: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    full = f"kubevend_agent_{name}"
    lines = [f"# HELP {full} {said}", f"# TYPE {full} {kind}"]
    return [*lines, *(f"{full}{f'{{{labels}}}' if labels else ''} {value:.17g}" for labels, value in samples)]


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'

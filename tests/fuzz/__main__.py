"""`python -m tests.fuzz TARGET [SECONDS [FOLDER]]`: fuzz one target, by coverage with atheris, else by hypothesis.

What is found to be new goes to the user's cache folder, so that the next run begins there; what fails is left in
FOLDER (default: the current one) as `crash-…`. A seed that shall be kept belongs into `corpus/`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

SECONDS = 30.0


def main(arguments: list[str]) -> None:
    """Fuzz one target."""
    name = arguments[0]
    seconds = float(arguments[1]) if len(arguments) > 1 else SECONDS
    if importlib.util.find_spec("atheris"):
        _by_coverage(name, seconds, Path(arguments[2] if len(arguments) > 2 else "."))
    else:
        _by_hypothesis(name, seconds)


def _by_coverage(name: str, seconds: float, failures: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["kubevend_server"], enable_loader_override=False):
        from tests.fuzz.targets import CORPUS, TARGETS

    found = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kubevend" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds:.0f}",
        f"-artifact_prefix={failures}/",
        "-max_len=4096",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


def _by_hypothesis(name: str, seconds: float) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from tests.fuzz.targets import CORPUS, TARGETS

    seeds = [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
    spliced = st.tuples(st.sampled_from(seeds), st.binary(max_size=50), st.integers(0, 4096)).map(
        lambda of: of[0][: of[2]] + of[1] + of[0][of[2] :]
    )
    ends = time.monotonic() + seconds
    runs = 0
    for seed in seeds:
        TARGETS[name](seed)
    while time.monotonic() < ends:

        @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.one_of(st.binary(max_size=1000), st.text(max_size=500).map(str.encode), spliced))
        def run(data: bytes) -> None:
            TARGETS[name](data)

        run()
        runs += 500
    sys.stdout.write(f"{runs} runs by hypothesis\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What processes use: CPU time and memory."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What one process, with its children, has used.

    Attributes:
        cpu_seconds: user and system time since it started, or within a measurement.
        rss_mb: resident memory now, in 10^6 bytes.
    """

    cpu_seconds: float
    rss_mb: float


class Disturbance:
    """How much of the machine others took from its making on: what makes a measurement worthless unseen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()

    def share(self, ours: float) -> float:
        """Return the share of all CPUs' time that went to others.

        Args:
            ours: CPU time in seconds that the measured processes and the load took meanwhile.
        """
        elapsed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, (_busy_seconds() - self._busy - ours) / elapsed)


def usage(pids: Mapping[str, int]) -> dict[str, Usage]:
    """Return what each process has used so far, by the same names."""
    return {name: _usage(psutil.Process(pid)) for name, pid in pids.items()}


def since(before: Mapping[str, Usage], now: Mapping[str, Usage]) -> dict[str, Usage]:
    """Return what was used between two samples; the memory is that of the later one."""
    return {name: Usage(used.cpu_seconds - before[name].cpu_seconds, used.rss_mb) for name, used in now.items()}


def _usage(process: psutil.Process) -> Usage:
    family = [process, *process.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    memory = sum(member.memory_info().rss for member in family)
    return Usage(sum(used.user + used.system for used in times), memory / 1e6)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # What the hypervisor gave to others is missing here too; only Linux tells.
    return float(times.user + times.system + getattr(times, "steal", 0.0))

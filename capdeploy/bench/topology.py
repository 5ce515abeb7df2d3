"""Which cores a measurement belongs on: whole ones, and the fast ones where they differ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from capdeploy.bench import files

SYSTEM = Path("/sys/devices/system/cpu")
ALIKE = 0.9
"""Cores whose speed is this share of the fastest one's are as fast: turbo prefers some a little."""


def ring(allowed: Iterable[int], wanted: int, system: Path = SYSTEM) -> list[int]:
    """List the cores that a process of so many threads may be bound to, in turns.

    On boards with fast and slow cores the first numbers are often the slow ones, and on many
    machines neighbours in number are two threads of one core.

    Parameters
    ----------
    allowed : Iterable[int]
        Logical cores that this process may use.
    wanted : int
        Threads, each of which gets one of them.
    system : Path
        Where Linux describes its cores.

    Returns
    -------
    list[int]
        One thread of each fast core, if those are enough; else their other threads, and then the
        slow cores, are behind them. Two at least, if fast cores have as many threads. In order of
        their numbers where the system says nothing.
    """
    cores = sorted(allowed)
    speeds = {core: _speed(system / f"cpu{core}") for core in cores}
    fast = {core for core in cores if speeds[core] >= ALIKE * max(speeds.values())}
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for core in cores:
        whole = files.text(system / f"cpu{core}" / "topology" / "thread_siblings_list").strip()
        (second if whole in seen else first).append(core)
        seen |= {whole} - {""}
    parts = [
        [core for core in part if (core in fast) is quick]
        for quick in (True, False) for part in (first, second)
    ]  # fmt: skip
    found: list[int] = []
    for number, part in enumerate(parts):
        found += part
        # Turns need another core, if only the other thread of the one; but no slow one for that.
        if len(found) >= (max(2, wanted) if number == 0 else wanted):
            break
    return found


def _speed(core: Path) -> float:
    """Read how fast a core is beside others, in any unit; 1 where the system does not say."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        said = files.text(core / name).strip()
        if said.isdigit() and int(said):
            return float(said)
    return 1.0

"""Watches the machine while something is measured on it."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from capdeploy.bench.clock import Clock, WallClock
from capdeploy.bench.environment import cores_allowed
from capdeploy.bench.files import text
from capdeploy.values.noise import Noise

HERE = Path("/")
STEAL = 7  # its place among the columns of /proc/stat; the two after it repeat user and nice


@dataclass(frozen=True)
class Reading:
    """Counters that only grow, at one moment.

    Parameters
    ----------
    ns : int
        The clock.
    waited_us : int | None
        Time in which some task waited for a core.
    stolen : int | None
        Ticks of all cores that the hypervisor gave to others.
    ticks : int | None
        Ticks of all cores.
    switches : int
        Times that this process and its ended children lost their core against their will.
    """

    ns: int
    waited_us: int | None
    stolen: int | None
    ticks: int | None
    switches: int


def read(clock: Clock, root: Path = HERE) -> Reading:
    """Read the counters; those that this system does not have are None.

    Parameters
    ----------
    clock : Clock
        Tells the time.
    root : Path
        Where the file system begins.

    Returns
    -------
    Reading
        The counters now.
    """
    waited = re.search(r"^some\b.*\btotal=(\d+)", text(root / "proc/pressure/cpu"), re.MULTILINE)
    cpu = re.search(r"^cpu +([\d ]+)$", text(root / "proc/stat"), re.MULTILINE)
    columns = [int(value) for value in cpu.group(1).split()] if cpu else []
    known = len(columns) > STEAL
    return Reading(
        ns=clock.now_ns(),
        waited_us=int(waited.group(1)) if waited else None,
        stolen=columns[STEAL] if known else None,
        ticks=sum(columns[: STEAL + 1]) if known else None,
        switches=sum(
            resource.getrusage(who).ru_nivcsw
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ),
    )


def between(before: Reading, after: Reading) -> Noise:
    """Say how busy the machine was from one reading to another.

    Parameters
    ----------
    before : Reading
        The earlier one.
    after : Reading
        The later one.

    Returns
    -------
    Noise
        Shares of the time between, and counts.
    """
    micros = (after.ns - before.ns) / 1000
    return Noise(
        seconds=micros / 1e6,
        load1=_load1(),
        cores=cores_allowed(),
        pressure_some_pct=_share(before.waited_us, after.waited_us, micros),
        steal_pct=_share(before.stolen, after.stolen, (after.ticks or 0) - (before.ticks or 0)),
        involuntary_switches=after.switches - before.switches,
    )


def _share(before: int | None, after: int | None, whole: float) -> float | None:
    if before is None or after is None or whole <= 0:
        return None
    # The kernel adds to its counters now and then, so a short time can seem to hold too much, and
    # steal has been seen to run backwards on some hypervisors.
    return min(100.0, max(0.0, 100 * (after - before) / whole))


def _load1() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


@dataclass
class Watch:
    """Holds what was seen once the watched block has ended.

    Parameters
    ----------
    noise : Noise | None
        What disturbed the block; None until it ends.
    """

    noise: Noise | None = field(default=None)


@contextmanager
def watched(clock: Clock | None = None, root: Path = HERE) -> Iterator[Watch]:
    """Watch the machine during a block.

    Parameters
    ----------
    clock : Clock | None
        Tells the time; the wall's by default.
    root : Path
        Where the file system begins.

    Yields
    ------
    Watch
        Its `noise` is set when the block ends, however it ends.
    """
    told = clock or WallClock()
    watch = Watch()
    before = read(told, root)
    try:
        yield watch
    finally:
        watch.noise = between(before, read(told, root))

"""One block of a comparison, in a process of its own: ``python -m capdeploy.bench.duel``."""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from capdeploy.bench import child, measure, sides
from capdeploy.bench.clock import Clock, CpuClock, WallClock
from capdeploy.bench.reference import INPUT, Reference
from capdeploy.bench.stats import percentile
from capdeploy.bundle import Bundle
from capdeploy.errors import CapdeployError, MissingDeviceError, MissingExtraError, UntrustedError
from capdeploy.runtimes import RUNTIMES, Session
from capdeploy.values.gate import Block
from capdeploy.values.report import Settings

ROUND_MS = 25.0
MOST_CALLS = 2000
# A round in which the kernel took the core away more often than this says more of the machine
# than of the network.
SWITCHES = 2


@dataclass(frozen=True)
class Arena:
    """What two sessions are measured with.

    Parameters
    ----------
    batches : Sequence[measure.Batch]
        Real inputs, cycled; both sides see the same.
    wall : Clock
        The clock on the wall.
    cpu : Clock
        The CPU time of this process.
    switches : Callable[[], int]
        How often this process has lost its core against its will.
    percentile : float
        What a round reports of its calls, 0..100.
    """

    batches: Sequence[measure.Batch]
    wall: Clock
    cpu: Clock
    switches: Callable[[], int]
    percentile: float = 50


def involuntary_switches() -> int:
    """Count how often this process was put off its core."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def fight(base: Session, head: Session, arena: Arena, *, rounds: int, base_first: bool) -> Block:
    """Measure two warm sessions round by round, in ABBA order.

    Parameters
    ----------
    base : Session
        What is compared with.
    head : Session
        What is compared.
    arena : Arena
        Inputs and clocks.
    rounds : int
        Rounds of each side; a disturbed pair is taken again, at most this often in all.
    base_first : bool
        Which was opened first, for the record, and which begins.

    Returns
    -------
    Block
        Medians of the rounds by both clocks.
    """
    sides = (base, head)
    calls = tuple(_calls(side, arena) for side in sides)
    kept: list[tuple[tuple[float, float], tuple[float, float]]] = []
    repeated = 0
    with measure.undisturbed():
        while len(kept) < rounds:
            swap = (len(kept) % 2 == 1) == base_first
            before = arena.switches()
            found = {side: _round(sides[side], calls[side], arena)
                     for side in ((1, 0) if swap else (0, 1))}  # fmt: skip
            if arena.switches() - before > 2 * SWITCHES and repeated < rounds:
                repeated += 1
                continue
            kept.append((found[0], found[1]))
    return Block(
        first="base" if base_first else "head",
        base_wall_ms=tuple(pair[0][0] for pair in kept),
        head_wall_ms=tuple(pair[1][0] for pair in kept),
        base_cpu_ms=tuple(pair[0][1] for pair in kept),
        head_cpu_ms=tuple(pair[1][1] for pair in kept),
        calls=(calls[0], calls[1]),
        repeated=repeated,
    )


def _calls(session: Session, arena: Arena) -> int:
    typical = statistics.median(
        measure.one(session, batch, arena.wall) for batch in arena.batches[:5]
    )
    # A percentile above the median needs more calls to be one at all.
    least = math.ceil(1.5 / (1 - arena.percentile / 100))
    return min(MOST_CALLS, max(least, round(ROUND_MS / typical)))


def _round(session: Session, calls: int, arena: Arena) -> tuple[float, float]:
    wall, cpu = [], []
    for call in range(calls):
        batch = arena.batches[call % len(arena.batches)]
        cpu_start, start = arena.cpu.now_ns(), arena.wall.now_ns()
        session.run(batch)
        end, cpu_end = arena.wall.now_ns(), arena.cpu.now_ns()
        wall.append((end - start) / measure.MS)
        cpu.append((cpu_end - cpu_start) / measure.MS)
    # A clock of coarse ticks can read zero; a ratio needs something to divide by.
    return percentile(wall, arena.percentile), max(percentile(cpu, arena.percentile), 1e-6)


def block(job: dict[str, Any]) -> Block:
    """Do one block: open both sides in the given order, warm them, let them fight."""
    settings = Settings.model_validate(job["settings"])
    cores = child.pin(settings.threads, turn=job["turn"]) if settings.device == "cpu" else ()
    wall = WallClock()
    order = ("base", "head") if job["base_first"] else ("head", "base")
    if settings.runtime == Reference.effective["runtime"]:
        made: dict[str, Session] = {side: Reference() for side in order}
        batches = [np.ones(INPUT, np.float32)]
    else:
        runtime = RUNTIMES.load(settings.runtime)
        if settings.device not in runtime.devices():
            raise MissingDeviceError(
                f"no such device: {runtime.title} sees no {settings.device} here"
            )
        found = {side: _opened(Path(job[side]), settings) for side in order}
        for each in found.values():
            code = runtime.foreign_code(each) if isinstance(each, Bundle) else None
            if code is not None and not job["trust_factory"]:
                raise UntrustedError(f"its network is built by {code}")
        # The gate sends bare graphs only to runtimes that read nothing else of a bundle.
        made = {
            side: runtime.open(cast(Bundle, found[side]), settings.device, settings.threads)
            for side in order
        }
        batches = sides.batches(found["head"], settings.batch)
    for side in order:
        measure.warm(made[side], batches, wall)
    arena = Arena(batches, wall, CpuClock(), involuntary_switches, job["percentile"])
    fought = fight(
        made["base"], made["head"], arena, rounds=job["rounds"], base_first=job["base_first"]
    )
    effective = dict(made["head"].effective)
    for session in made.values():
        session.close()
    return fought.model_copy(update={"affinity": cores, "effective": effective})


def _opened(path: Path, settings: Settings) -> sides.Artefact:
    """Open a side; of a bundle, the graph in the precision that counts."""
    found = sides.read(path)
    if isinstance(found, Bundle):
        return found.in_precision(settings.precision, settings.runtime)
    return found


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and describe what came of it in plain data."""
    try:
        return {"block": block(job).model_dump(mode="json")}
    except (MissingDeviceError, MissingExtraError) as error:
        return {"skipped": str(error)}
    except CapdeployError as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    outcome = main(json.loads(job_file.read_text(encoding="utf-8")))
    result_file.write_text(json.dumps(outcome), encoding="utf-8")

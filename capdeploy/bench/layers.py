"""Times many small graphs in turns, in a process of its own: ``python -m capdeploy.bench.layers``.

Built for the probes of a network's layers: those of one layer are opened together and visited in
rounds, so that drift and bursts hit all its widths alike. Before each call as much memory is read
as the whole network's weights take: inside of it, a layer finds the caches full of other layers,
and small maps with many weights are limited by memory (measured: a ResNet-18's last stage at 32
pixels takes three times as long as the same layers called again and again).

A graph that never changes is called in each round besides. A machine that is shared slows down for
seconds, by half and more, which would make the layers timed meanwhile look slow beside the others;
what that graph takes tells, and they are timed again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from capdeploy import errors, graphfile
from capdeploy.bench import child, measure, sides
from capdeploy.bench.clock import Clock, WallClock
from capdeploy.bench.processes import CALM
from capdeploy.bundle import Bundle
from capdeploy.errors import (
    CapdeployError,
    MissingDeviceError,
    MissingError,
    MissingExtraError,
    StepFailedError,
)
from capdeploy.runtimes import RUNTIMES, Runtime, Session

WORKER = "capdeploy.bench.layers"
SECONDS, EACH = 300.0, 10.0  # time limit of a process, and more for each graph
ROUNDS = 12
AGAIN = 5
"""How often layers are timed again on a busy machine, at most."""

Task = tuple[Session, measure.Batch]
Row = tuple[float, list[float]]
"""What the reference took meanwhile, and what the graphs took, ms."""


@dataclass(frozen=True)
class Spot:
    """Where graphs are timed.

    Parameters
    ----------
    runtime : str
        What runs them.
    device : str
        Where.
    threads : int
        Of the runtime.
    evict : int
        Bytes to read before each call.
    """

    runtime: str
    device: str
    threads: int
    evict: int

    @property
    def shelf(self) -> Runtime:
        """The runtime."""
        return RUNTIMES.load(self.runtime)

    def opened(self, path: Path, stack: ExitStack) -> Task:
        """Open a graph until the stack is left, and make its input."""
        graph = graphfile.read(path)
        session = self.shelf.open(cast(Bundle, graph), self.device, self.threads)
        stack.callback(session.close)
        return session, sides.batches(graph, 1)[0]


def times(graphs: Sequence[Sequence[Path]], reference: Path, spot: Spot) -> list[list[float]]:
    """Time graphs in a fresh process.

    Parameters
    ----------
    graphs : Sequence[Sequence[Path]]
        ONNX files; those of one inner list are visited in turns.
    reference : Path
        An ONNX file that is visited with all of them: it tells how busy the machine is.
    spot : Spot
        What runs them, and where.

    Returns
    -------
    list[list[float]]
        Median latency of each graph in ms.

    Raises
    ------
    StepFailedError
        If the process died.
    CapdeployError
        What the runtime refused.
    """
    job: dict[str, Any] = {
        "graphs": [[str(path) for path in row] for row in graphs], "reference": str(reference),
        "spot": asdict(spot),
    }  # fmt: skip
    limit = SECONDS + EACH * sum(map(len, graphs))
    try:
        outcome = child.run(WORKER, job, threads=spot.threads, timeout=limit)
    except child.ChildDiedError as error:
        raise StepFailedError(f"layers cannot be timed in {spot.runtime}: {error}") from error
    if "error" in outcome:
        kind = getattr(errors, outcome["error"], StepFailedError)
        # That error makes its message itself, and it is made already.
        raise (MissingError if kind is MissingExtraError else kind)(outcome["message"])
    found: list[list[float]] = outcome["ms"]
    return found


def in_turns(rows: Sequence[Sequence[Path]], reference: Path, spot: Spot) -> list[list[float]]:
    """Time graphs in this process: median latency of each in ms, by rows."""
    with ExitStack() as always:
        known = spot.opened(reference, always)

        def once(row: Sequence[Path]) -> Row:
            with ExitStack() as stack:
                tasks = [known, *(spot.opened(path, stack) for path in row)]
                found = np.median(rounds(tasks, WallClock(), evict=spot.evict), axis=0)
            return float(found[0]), [float(value) for value in found[1:]]

        return calm(rows, once)


def calm(
    rows: Sequence[Sequence[Path]], once: Callable[[Sequence[Path]], Row]
) -> list[list[float]]:
    """Time rows, and those again during which the reference was slower than at its best.

    Parameters
    ----------
    rows : Sequence[Sequence[Path]]
        What is timed together.
    once : Callable[[Sequence[Path]], Row]
        Times a row.

    Returns
    -------
    list[list[float]]
        What each row took while the reference was fastest; the row's own times pick nothing.
    """
    kept = [once(row) for row in rows]
    for _ in range(AGAIN):
        best = min(pace for pace, _ in kept)
        busy = [number for number, (pace, _) in enumerate(kept) if pace > CALM * best]
        for number in busy:
            kept[number] = min(kept[number], once(rows[number]), key=itemgetter(0))
    return [ms for _, ms in kept]


def rounds(tasks: Sequence[Task], clock: Clock, *, evict: int) -> npt.NDArray[np.float64]:
    """Call every session once a round, each round in another order, with cold caches.

    Parameters
    ----------
    tasks : Sequence[Task]
        What to time, each with its input.
    clock : Clock
        Tells the time.
    evict : int
        Bytes to read before each call.

    Returns
    -------
    npt.NDArray[np.float64]
        Rounds x sessions, ms; the first round, in which memory is set up, is left out.
    """
    others = np.ones(max(1, evict // 8))
    random = np.random.default_rng(0)
    times = np.empty((ROUNDS + 1, len(tasks)))
    with measure.undisturbed():
        for done in range(ROUNDS + 1):
            for place in random.permutation(len(tasks)):
                others.sum()
                session, batch = tasks[place]
                times[done, place] = measure.one(session, batch, clock)
    return times[1:]


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and describe what came of it in plain data."""
    spot = Spot(**job["spot"])
    if spot.device == "cpu":
        child.pin(spot.threads)
    try:
        if spot.device not in spot.shelf.devices():
            found = f"{spot.shelf.title} sees no {spot.device} here"
            raise MissingDeviceError(f"no such device: {found}")
        graphs = [[Path(path) for path in row] for row in job["graphs"]]
        rows = in_turns(graphs, Path(job["reference"]), spot)
    except CapdeployError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"ms": rows}


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    outcome = main(json.loads(job_file.read_text(encoding="utf-8")))
    result_file.write_text(json.dumps(outcome), encoding="utf-8")

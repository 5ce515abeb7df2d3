"""Times many small graphs in turns, in a process of its own: ``python -m capdeploy.bench.layers``.

Built for the probes of a network's layers: those of one layer are opened together and visited in
rounds, so that drift and bursts hit all its widths alike. Before each call as much memory is read
as the whole network's weights take: inside of it, a layer finds the caches full of other layers,
and small maps with many weights are limited by memory (measured: a ResNet-18's last stage at 32
pixels takes three times as long as the same layers called again and again).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from capdeploy import errors, graphfile
from capdeploy.bench import child, measure, sides
from capdeploy.bench.clock import Clock, WallClock
from capdeploy.bundle import Bundle
from capdeploy.errors import (
    CapdeployError,
    MissingDeviceError,
    MissingError,
    MissingExtraError,
    StepFailedError,
)
from capdeploy.runtimes import RUNTIMES, Session

WORKER = "capdeploy.bench.layers"
SECONDS, EACH = 300.0, 10.0  # time limit of a process, and more for each graph
ROUNDS = 12


def times(
    graphs: Sequence[Sequence[Path]], *, runtime: str, device: str, threads: int, evict: int
) -> list[list[float]]:
    """Time graphs in a fresh process.

    Parameters
    ----------
    graphs : Sequence[Sequence[Path]]
        ONNX files; those of one inner list take the same input and are visited in turns.
    runtime : str
        What runs them.
    device : str
        Where.
    threads : int
        Of the runtime.
    evict : int
        Bytes to read before each call.

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
        "graphs": [[str(path) for path in row] for row in graphs],
        "runtime": runtime, "device": device, "threads": threads, "evict": evict,
    }  # fmt: skip
    limit = SECONDS + EACH * sum(map(len, graphs))
    try:
        outcome = child.run(WORKER, job, threads=threads, timeout=limit)
    except child.ChildDiedError as error:
        raise StepFailedError(f"layers cannot be timed in {runtime}: {error}") from error
    if "error" in outcome:
        kind = getattr(errors, outcome["error"], StepFailedError)
        # That error makes its message itself, and it is made already.
        raise (MissingError if kind is MissingExtraError else kind)(outcome["message"])
    found: list[list[float]] = outcome["ms"]
    return found


def in_turns(
    graphs: Sequence[Path], *, runtime: str, device: str, threads: int, evict: int
) -> list[float]:
    """Time graphs of one input shape in this process: median latency of each in ms."""
    shelf = RUNTIMES.load(runtime)
    if device not in shelf.devices():
        raise MissingDeviceError(f"no such device: {shelf.title} sees no {device} here")
    opened = [graphfile.read(path) for path in graphs]
    with ExitStack() as stack:
        sessions: list[Session] = []
        for graph in opened:
            session = shelf.open(cast(Bundle, graph), device, threads)
            stack.callback(session.close)
            sessions.append(session)
        batch = sides.batches(opened[0], 1)[0]
        found = rounds(sessions, batch, WallClock(), evict=evict)
    return [float(value) for value in np.median(found, axis=0)]


def rounds(
    sessions: Sequence[Session], batch: measure.Batch, clock: Clock, *, evict: int
) -> npt.NDArray[np.float64]:
    """Call every session once a round, each round in another order, with cold caches.

    Parameters
    ----------
    sessions : Sequence[Session]
        What to time.
    batch : measure.Batch
        The input.
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
    times = np.empty((ROUNDS + 1, len(sessions)))
    with measure.undisturbed():
        for done in range(ROUNDS + 1):
            for place in random.permutation(len(sessions)):
                others.sum()
                times[done, place] = measure.one(sessions[place], batch, clock)
    return times[1:]


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and describe what came of it in plain data."""
    if job["device"] == "cpu":
        child.pin(job["threads"])
    try:
        rows = [
            in_turns(
                [Path(path) for path in row],
                runtime=job["runtime"], device=job["device"], threads=job["threads"],
                evict=job["evict"],
            )
            for row in job["graphs"]
        ]  # fmt: skip
    except CapdeployError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"ms": rows}


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    outcome = main(json.loads(job_file.read_text()))
    result_file.write_text(json.dumps(outcome))

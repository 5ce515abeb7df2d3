"""What a graph needs of memory, in a process of its own: ``python -m capdeploy.bench.memory``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from capdeploy import errors, graphfile
from capdeploy.bench import child, measure
from capdeploy.bench.clock import WallClock
from capdeploy.bench.worker import peak_rss_mib
from capdeploy.bundle import Bundle
from capdeploy.errors import CapdeployError, MissingDeviceError, StepFailedError
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.report import Settings

WORKER = "capdeploy.bench.memory"
SECONDS = 300.0
INFERENCES = 8  # the first sets memory up; what later ones add is little


def peak(graph: Path, settings: Settings) -> tuple[float, float]:
    """Measure the peak resident memory of a fresh process that answers with a graph.

    Parameters
    ----------
    graph : Path
        An ONNX file.
    settings : Settings
        Runtime, device and threads.

    Returns
    -------
    tuple[float, float]
        MiB before the graph is opened (Python and the runtime's library), and at the peak.

    Raises
    ------
    StepFailedError
        If the process died.
    CapdeployError
        What the runtime refused: the graph, or a device that is not here.
    """
    job = {"graph": str(graph), "settings": settings.model_dump()}
    try:
        answer = child.run(WORKER, job, threads=settings.threads, timeout=SECONDS)
    except child.ChildDiedError as error:
        raise StepFailedError(f"{graph.stem} cannot be measured: {error}") from error
    if "error" in answer:
        kind = getattr(errors, answer["error"], StepFailedError)
        raise kind(answer["message"])
    return answer["before"], answer["peak"]


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and describe what came of it in plain data."""
    settings = Settings.model_validate(job["settings"])
    if settings.device == "cpu":
        child.pin(settings.threads)
    runtime = RUNTIMES.load(settings.runtime)
    try:
        if settings.device not in runtime.devices():
            raise MissingDeviceError(
                f"no such device: {runtime.title} sees no {settings.device} here"
            )
        graph = graphfile.read(Path(job["graph"]))
        # A single input: others would be memory that is not the network's.
        sides = [side or 1 for side in graph.input_shape[1:]]
        batch = np.random.default_rng(0).random((settings.batch, *sides), dtype=np.float32)
        before = peak_rss_mib()
        session = runtime.open(cast(Bundle, graph), settings.device, settings.threads)
        for _ in range(INFERENCES):
            measure.one(session, batch, WallClock())
        found = peak_rss_mib()
        session.close()
    except CapdeployError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"before": before, "peak": found}


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    outcome = main(json.loads(job_file.read_text(encoding="utf-8")))
    result_file.write_text(json.dumps(outcome), encoding="utf-8")

"""Jobs in processes of their own, with as many threads as asked and not one more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from capdeploy import patience
from capdeploy.bench import topology
from capdeploy.errors import printable

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip

SLOWEST = 5e8
"""MACs that the slowest device of use does in a second; time limits go by it."""


class ChildDiedError(Exception):
    """A child process gave no answer; the message says how it ended."""


def run(module: str, job: dict[str, Any], *, threads: int, timeout: float) -> dict[str, Any]:
    """Run ``python -m module JOB RESULT`` and read its answer.

    Parameters
    ----------
    module : str
        A module that takes a job file and a result file.
    job : dict[str, Any]
        What to do, as plain data.
    threads : int
        Threads that numerical libraries may start.
    timeout : float
        Seconds until the child is killed.

    Returns
    -------
    dict[str, Any]
        The child's answer.

    Raises
    ------
    ChildDiedError
        If it died, or was killed after the time limit.
    """
    variables = {name: str(threads) for name in THREAD_VARIABLES}
    with tempfile.TemporaryDirectory(prefix="capdeploy-bench-") as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(json.dumps(job), encoding="utf-8")
        environment = patience.untouched(os.environ) | variables
        # -P: the folder that the user stands in may not shadow a module.
        command = [sys.executable, "-P", "-m", module, str(job_file), str(result_file)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True,
                errors="replace", timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ChildDiedError(f"no answer after {error.timeout:g} s") from error
        if done.returncode < 0:  # what it said last is no reason then
            raise ChildDiedError(f"the process was killed by signal {-done.returncode}")
        if done.returncode != 0 or not result_file.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise ChildDiedError(printable(f"the process ended: {lines[-1]}"))
        answer: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        return answer


def pin(cores: int, *, turn: int = 0) -> tuple[int, ...]:
    """Bind this process to some of its allowed cores, the fastest first, and say to which.

    Parameters
    ----------
    cores : int
        How many.
    turn : int
        Which neighbours: successive turns take others, so that one busy core does not spoil all.

    Returns
    -------
    tuple[int, ...]
        The cores as read back; empty where the system knows no affinity.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    ring = topology.ring(os.sched_getaffinity(0), cores)
    start = turn * cores
    chosen = {ring[(start + offset) % len(ring)] for offset in range(cores)}
    os.sched_setaffinity(0, chosen)
    return tuple(sorted(os.sched_getaffinity(0)))

"""All rows of a benchmark: bundles x runtimes x devices, each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from capdeploy import errors
from capdeploy.bench import environment
from capdeploy.bench.budgets import judge
from capdeploy.bundle import Bundle
from capdeploy.errors import ConfigError, StepFailedError
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import BenchmarkReport, Measured, Row, Settings, Skipped

INCLUDES = (
    "one inference = input array in host memory to logits in host memory (device copies included, "
    "preprocessing excluded)"
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ROW_SECONDS = 300


def run(
    bundles: Sequence[Bundle],
    profile: HardwareProfile,
    *,
    seconds: float,
    say: Say,
    trust_factory: bool = False,
) -> BenchmarkReport:
    """Measure every bundle in every runtime and on every device of a profile.

    Parameters
    ----------
    bundles : Sequence[Bundle]
        What to measure.
    profile : HardwareProfile
        Runtimes, devices, threads, batch and budgets.
    seconds : float
        Measuring time of a row.
    say : Say
        Hears of every row.
    trust_factory : bool
        Allow bundles to name code of their own that builds their network.

    Returns
    -------
    BenchmarkReport
        One row for each combination, measured or skipped with its reason; a row whose process
        died is marked as failed and does not cost the others.

    Raises
    ------
    ConfigError
        If the profile names a runtime that does not exist, or leaves nothing to measure.
    SilentFallbackError
        If a runtime ran on another device than asked.
    """
    wanted = _rows(bundles, profile)
    if not wanted:
        raise ConfigError(
            f"profile {profile.id} leaves nothing to measure: no runtime of "
            f"{', '.join(profile.runtime.runtimes)} runs on {', '.join(profile.runtime.devices)}"
        )
    skipped: dict[tuple[str, str], Skipped] = {}
    rows = []
    for done, (bundle, settings) in enumerate(wanted):
        say.advance(done, len(wanted), f"{settings.bundle} in {settings.runtime} {settings.device}")
        place = (settings.runtime, settings.device)
        result = skipped.get(place) or _in_child(bundle, settings, seconds, trust_factory)
        if isinstance(result, Skipped) and result.scope == "machine":
            skipped[place] = result
        rows.append(Row(settings=settings, result=result))
    say.advance(len(wanted), len(wanted), "")
    here = environment.read()
    is_device = environment.is_device(profile, here)
    return BenchmarkReport(
        profile=profile.id,
        emulated=not is_device,
        environment=here,
        includes=INCLUDES,
        rows=tuple(rows),
        budgets=judge(rows, profile, is_device=is_device),
    )


def _rows(bundles: Sequence[Bundle], profile: HardwareProfile) -> list[tuple[Bundle, Settings]]:
    wanted = profile.runtime
    return [
        (bundle, Settings(
            bundle=bundle.manifest.name, runtime=runtime, device=device,
            precision=wanted.precision, threads=wanted.threads, batch=wanted.batch,
        ))
        for runtime in wanted.runtimes
        for device in RUNTIMES.load(runtime).supports
        if device in wanted.devices
        for bundle in bundles
    ]  # fmt: skip


def _in_child(
    bundle: Bundle, settings: Settings, seconds: float, trust_factory: bool
) -> Measured | Skipped:
    baseline = bundle.baseline()
    job = {
        "bundle": str(bundle.folder.resolve()),
        "baseline": str(baseline.folder.resolve()) if baseline else None,
        "settings": settings.model_dump(),
        "seconds": seconds,
        "trust_factory": trust_factory,
    }
    variables = {name: str(settings.threads) for name in THREAD_VARIABLES}
    with tempfile.TemporaryDirectory(prefix="capdeploy-bench-") as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(json.dumps(job))
        command = [
            sys.executable,
            "-P",
            "-m",
            "capdeploy.bench.worker",
            str(job_file),
            str(result_file),
        ]
        name = f"{settings.bundle} in {settings.runtime} on {settings.device}"
        try:
            done = subprocess.run(
                command, env={**os.environ, **variables}, capture_output=True, text=True,
                timeout=ROW_SECONDS + seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return Skipped(reason=f"failed: no answer after {error.timeout:g} s", failed=True)
        if done.returncode != 0 or not result_file.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            return Skipped(reason=f"failed: the process ended: {lines[-1]}", failed=True)
        outcome = json.loads(result_file.read_text())
    if "error" in outcome:
        kind = getattr(errors, outcome["error"], StepFailedError)
        raise kind(f"{name}: {outcome['message']}")
    reader: TypeAdapter[Measured | Skipped] = TypeAdapter(Measured | Skipped)
    return reader.validate_python(outcome["result"])

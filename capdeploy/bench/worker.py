"""One row of the benchmark, in a process of its own: ``python -m capdeploy.bench.worker``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from capdeploy import bundle as bundles
from capdeploy.bench import child, measure, sides
from capdeploy.bench.clock import Clock, CpuMeter, WallClock
from capdeploy.bundle import Bundle
from capdeploy.check_images import CheckImages
from capdeploy.errors import (
    CapdeployError,
    MissingDeviceError,
    MissingExtraError,
    UntrustedError,
)
from capdeploy.runtimes import RUNTIMES, Runtime, Session
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.artifact import Parity
from capdeploy.values.report import Measured, Settings, Skipped, SpeedUp

# Other runtimes use other algorithms (Winograd, for one): ten times what the exporter was allowed.
RUNTIME_MARGIN = 10.0


def row(
    bundle: Bundle,
    baseline: Bundle | None,
    settings: Settings,
    *,
    runtime: Runtime,
    seconds: float,
    clock: Clock,
    trust_factory: bool = False,
) -> Measured:
    """Measure one bundle in one runtime on one device.

    Parameters
    ----------
    bundle : Bundle
        What to measure.
    baseline : Bundle | None
        What to compare it with, in turns, after it was measured alone.
    settings : Settings
        Device, threads and batch.
    runtime : Runtime
        What runs it.
    seconds : float
        Measuring time: a third alone, two thirds in turns.
    clock : Clock
        Tells the time.
    trust_factory : bool
        Allow the bundle to name code of its own that builds its network.

    Returns
    -------
    Measured
        Raw values.

    Raises
    ------
    MissingDeviceError
        If the device is not here.
    UntrustedError
        If opening the bundle or its baseline would call code that is not trusted.
    StepFailedError
        If the device's own clock says longer than ours.
    """
    if not trust_factory:
        _refuse_foreign_code(runtime, bundle, baseline)
    if settings.device not in runtime.devices():
        raise MissingDeviceError(f"no such device: {runtime.title} sees no {settings.device} here")
    checks = CheckImages.load(bundle.folder)
    start = clock.now_ns()
    session: Session = runtime.open(bundle, settings.device, settings.threads)
    load_ms = (clock.now_ns() - start) / measure.MS
    # One call's input until the peak is read: others would be memory that is not the network's.
    first = sides.batches(bundle, settings.batch, images=1)
    first_ms = measure.one(session, first[0], clock)
    warmup = measure.warm(session, first, clock)
    peak = peak_rss_mib()
    batches = sides.batches(bundle, settings.batch)
    meter = CpuMeter(clock)
    latencies = measure.steady(session, batches, meter, seconds=seconds / 3)
    device_ms = measure.by_own_clock(session, batches, clock)
    accuracy, parity = check(session, bundle, checks, settings.runtime)
    versus, before = _versus(baseline, session, batches, settings, runtime, clock, seconds * 2 / 3)
    result = Measured(
        effective=dict(session.effective),
        load_ms=load_ms,
        first_ms=first_ms,
        warmup_ms=warmup,
        latency_ms=latencies,
        cpu_ms_per_inference=meter.spent_ns / measure.MS / len(latencies),
        device_ms=device_ms,
        peak_rss_mib=peak,
        size_bytes=bundle.size_bytes,
        accuracy=accuracy,
        parity=parity,
        speed_up=versus, baseline_accuracy=before,
    )  # fmt: skip
    session.close()
    return result


def _refuse_foreign_code(runtime: Runtime, bundle: Bundle, baseline: Bundle | None) -> None:
    for side in (bundle, *([baseline] if baseline is not None else ())):
        if (code := runtime.foreign_code(side)) is not None:
            raise UntrustedError(
                f"its network is built by the bundle's own {code}; add --trust-factory if you "
                "trust it"
            )


def _versus(
    baseline: Bundle | None,
    session: Session,
    batches: Sequence[measure.Batch],
    settings: Settings,
    runtime: Runtime,
    clock: Clock,
    seconds: float,
) -> tuple[SpeedUp | None, Accuracy | None]:
    """Time the baseline in turns with a bundle, and judge it by its own check images."""
    if baseline is None:
        return None, None
    other: Session = runtime.open(baseline, settings.device, settings.threads)
    measure.warm(other, batches, clock)
    measure.warm(session, batches, clock)
    result = measure.paired(other, session, batches, clock, seconds=seconds)
    accuracy, _ = check(other, baseline, CheckImages.load(baseline.folder), settings.runtime)
    other.close()
    return result, accuracy


def check(
    session: Session, bundle: Bundle, checks: CheckImages, runtime: str
) -> tuple[Accuracy, Parity]:
    """Judge a runtime's answers to the bundle's images by the labels and by the network's own.

    Parameters
    ----------
    session : Session
        The bundle in a runtime.
    bundle : Bundle
        Its manifest gives names and preprocessing.
    checks : CheckImages
        Images, labels and PyTorch's logits at packing time.
    runtime : str
        What to call the result.

    Returns
    -------
    tuple[Accuracy, Parity]
        Right answers per class, and the distance from the network's logits.
    """
    manifest = bundle.manifest
    parts = [
        session.run(manifest.preprocessing.apply(np.asarray(checks.images[at : at + 1])))
        for at in range(len(checks.images))
    ]
    logits = np.concatenate(parts)
    right = logits.argmax(axis=1) == checks.labels
    # With a whole head, an image's label is the output of its class.
    owners = checks.labels
    if not manifest.head_cut:
        owners = np.array([manifest.classes.kept.index(output) for output in checks.labels])
    accuracy = Accuracy.counted(runtime, manifest.classes.names, owners, right)
    atol = RUNTIME_MARGIN * manifest.artifact.parity[-1].atol
    parity = Parity.between(logits, checks.logits, stage=runtime, atol=atol)
    return accuracy, parity


def peak_rss_mib() -> float:
    """Return the largest resident memory that this process has had, in MiB."""
    # ru_maxrss survives fork and exec on Linux: it would be the parent's peak.
    with contextlib.suppress(OSError):
        found = re.search(
            r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
        )
        if found:
            return int(found.group(1)) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job and describe what came of it in plain data."""
    settings = Settings.model_validate(job["settings"])
    # Before a runtime looks for cores: threads that wander between caches are slower and noisier.
    # What feeds a GPU has threads of its own, which one core would hold up.
    cores = child.pin(settings.threads) if settings.device == "cpu" else ()
    bundle = bundles.read(Path(job["bundle"]))
    baseline = bundles.read(Path(job["baseline"])) if job["baseline"] else None
    try:
        runtime = RUNTIMES.load(settings.runtime)
        if why := runtime.pointless.get((settings.precision, settings.device)):
            return {"result": Skipped(reason=why).model_dump(mode="json")}
        bundle = bundle.in_precision(settings.precision, settings.runtime)
        result: Measured | Skipped = row(
            bundle, baseline, settings,
            runtime=runtime, seconds=job["seconds"], clock=WallClock(),
            trust_factory=job["trust_factory"],
        )  # fmt: skip
    except (MissingDeviceError, MissingExtraError) as error:
        result = Skipped(reason=str(error), scope="machine")
    except UntrustedError as error:
        result = Skipped(reason=str(error))
    except CapdeployError as error:
        return {"error": type(error).__name__, "message": str(error)}
    if isinstance(result, Measured) and cores:
        effective = result.effective | {"affinity": ",".join(map(str, _affinity()))}
        result = result.model_copy(update={"effective": effective})
    return {"result": result.model_dump(mode="json")}


def _affinity() -> list[int]:
    """Read the cores back after the fact: a runtime may have changed them."""
    return sorted(os.sched_getaffinity(0))


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    outcome = main(json.loads(job_file.read_text(encoding="utf-8")))
    result_file.write_text(json.dumps(outcome), encoding="utf-8")

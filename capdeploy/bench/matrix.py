"""All rows of a benchmark: bundles x runtimes x devices, each in a fresh process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from capdeploy.bench import child, environment, noise
from capdeploy.bench.budgets import judge, require
from capdeploy.bench.floor import noise_floor
from capdeploy.bundle import Bundle
from capdeploy.check_images import IMAGES
from capdeploy.errors import ConfigError
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.noise import Noise
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import BenchmarkReport, Measured, Row, Settings, Skipped

INCLUDES = (
    "one inference = input array in host memory to logits in host memory (device copies included, "
    "preprocessing excluded)"
)
WORKER = "capdeploy.bench.worker"
ROW_SECONDS = 300
"""Time limit of a row, its measuring and the answers to its images apart."""


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
        One row for each combination, measured or skipped with its reason; a row that broke, or
        whose process died, is marked as failed and does not cost the others. After an interrupt
        it holds the rows that had ended, and names the missing ones.

    Raises
    ------
    ConfigError
        If the profile names a runtime that does not exist, or leaves nothing to measure.
    KeyboardInterrupt
        If it came before any row had ended.
    """
    wanted = _rows(bundles, profile)
    if not wanted:
        raise ConfigError(
            f"profile {profile.id} leaves nothing to measure: no runtime of "
            f"{', '.join(profile.runtime.runtimes)} runs on {', '.join(profile.runtime.devices)}"
        )
    with noise.watched() as watch:
        rows = list(_measured(wanted, seconds, say, trust_factory))
    if not rows:
        raise KeyboardInterrupt
    here = environment.read()
    is_device = environment.is_device(profile, here)
    return BenchmarkReport(
        profile=profile.id,
        emulated=not is_device,
        environment=here,
        includes=INCLUDES,
        rows=tuple(rows),
        missing=tuple(settings for _, settings in wanted[len(rows) :]),
        budgets=judge(rows, profile, is_device=is_device),
        noise=_with_floor(watch.noise, rows) if len(rows) == len(wanted) else watch.noise,
    )


def _with_floor(noise: Noise | None, rows: Sequence[Row]) -> Noise | None:
    """Add how far a workload of our own is from itself on this machine now."""
    if noise is None or not any(isinstance(row.result, Measured) for row in rows):
        return noise
    try:
        return noise.model_copy(update={"aa_half_width": noise_floor(blocks=2)})
    except (child.ChildDiedError, KeyboardInterrupt):
        return noise  # the rows are worth more than what is said of the noise


def conclude(report: BenchmarkReport) -> None:
    """Turn what a benchmark found into the way a command ends, after it has been shown.

    Parameters
    ----------
    report : BenchmarkReport
        The benchmark.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted.
    CapdeployError
        If a row broke, a runtime answers wrongly, or a budget is missed.
    """
    if report.missing:
        raise KeyboardInterrupt
    require(report)


def _measured(
    wanted: Sequence[tuple[Bundle, Settings]], seconds: float, say: Say, trust_factory: bool
) -> Iterator[Row]:
    """Measure row after row; an interrupt ends the rows, and those that have ended stay."""
    skipped: dict[tuple[str, str], Skipped] = {}
    for done, (bundle, settings) in enumerate(wanted):
        place = (settings.runtime, settings.device)
        name = settings.row
        try:
            say.advance(done, len(wanted), name)
            result = skipped.get(place) or _in_child(bundle, settings, seconds, trust_factory)
        except KeyboardInterrupt:
            return
        if isinstance(result, Skipped) and result.scope == "machine":
            skipped[place] = result
        yield Row(settings=settings, result=result)
    say.advance(len(wanted), len(wanted), "")


def _rows(bundles: Sequence[Bundle], profile: HardwareProfile) -> list[tuple[Bundle, Settings]]:
    wanted = profile.runtime
    return [
        (bundle, Settings(
            bundle=bundle.manifest.name, runtime=runtime, device=device,
            precision=precision, threads=wanted.threads, batch=wanted.images_at_once,
            scenario=wanted.scenario,
        ))
        for runtime in wanted.runtimes
        for device in RUNTIMES.load(runtime).supports
        if device in wanted.devices
        for bundle in bundles
        for precision in bundle.precisions(runtime)
    ]  # fmt: skip


def _limit(bundle: Bundle, baseline: Bundle | None) -> float:
    """Say how long a row may take: both networks answer their own images, one by one."""
    work = 0.0
    for side in (bundle, *([baseline] if baseline is not None else ())):
        manifest = side.manifest
        pixels = manifest.preprocessing.height * manifest.preprocessing.width
        work += manifest.cost.macs * manifest.files[IMAGES].size_bytes / (3 * pixels)
    return ROW_SECONDS + work / child.SLOWEST


def _in_child(
    bundle: Bundle, settings: Settings, seconds: float, trust_factory: bool
) -> Measured | Skipped:
    baseline = bundle.baseline()
    if bundle.manifest.role == "baseline" and settings.precision != "fp32":
        baseline = bundle  # in single precision
    job: dict[str, Any] = {
        "bundle": str(bundle.folder.resolve()),
        "baseline": str(baseline.folder.resolve()) if baseline else None,
        "settings": settings.model_dump(),
        "seconds": seconds,
        "trust_factory": trust_factory,
    }
    try:
        limit = seconds + _limit(bundle, baseline)
        outcome = child.run(WORKER, job, threads=settings.threads, timeout=limit)
    except child.ChildDiedError as error:
        return Skipped(reason=f"failed: {error}", failed=True)
    if "error" in outcome:
        return Skipped(reason=f"failed: {outcome['message']}", failed=True, error=outcome["error"])
    reader: TypeAdapter[Measured | Skipped] = TypeAdapter(Measured | Skipped)
    return reader.validate_python(outcome["result"])

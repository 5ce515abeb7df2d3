"""A profile's budgets against the rows.

Absolute ones are the device's own: on another machine they are not looked at. Relative ones are
ratios and differences against the head-cut baseline in the same runtime, so any host will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from capdeploy import errors
from capdeploy.bench.stats import percentile, percentile_bounds
from capdeploy.bundle import BASELINE
from capdeploy.errors import BudgetError, ParityError, StepFailedError
from capdeploy.values.latency import Search
from capdeploy.values.profile import FLOORS, Budgets, HardwareProfile
from capdeploy.values.report import (
    BenchmarkReport,
    BudgetOutcome,
    Measured,
    Metrics,
    Row,
    Settings,
    Skipped,
)

MIB = 1 << 20
SLACK = 1.03
"""How far beyond its budget a found network has to be: a process is not as quick as the next."""
# What a budget is compared with: the estimate, and the interval that has to clear the limit.
Estimate = tuple[float, float, float]
Outcome = Literal["kept", "missed", "inconclusive", "not evaluated on this host"]
NOT_EVALUATED: Final[Outcome] = "not evaluated on this host"


def judge(
    rows: Iterable[Row], profile: HardwareProfile, *, is_device: bool
) -> tuple[BudgetOutcome, ...]:
    """Compare every measured row with every budget of the profile.

    A number without uncertainty (size, accuracy on the bundle's images, and by decision the peak
    memory) is kept or missed as it stands. Latencies have an interval, of order statistics or of
    the bootstrap: kept if all of it is within the limit, missed if all of it is beyond, and
    inconclusive if it straddles the limit. Where the profile ships fewer bits and a bundle has
    them, its rows in other precisions are passed over.

    Parameters
    ----------
    rows : Iterable[Row]
        The benchmark's rows; skipped ones and the baseline's are passed over.
    profile : HardwareProfile
        The budgets.
    is_device : bool
        Whether this machine is the profile's device.

    Returns
    -------
    tuple[BudgetOutcome, ...]
        One for each row and budget.
    """
    measured = [(row.settings, row.result) for row in rows if isinstance(row.result, Measured)]
    passed_over = _not_shipped([settings for settings, _ in measured], profile.runtime.precision)
    outcomes = []
    for settings, result in measured:
        if settings.bundle == BASELINE or settings in passed_over:
            continue
        found = _absolute(result) | _relative(result)
        for budget in Budgets.model_fields:
            limit = getattr(profile.budgets, budget)
            if limit is None:
                continue
            # A file is as large on any machine; time and memory are the device's own.
            counts = is_device or budget == "size_mib" or Budgets.kind(budget) == "relative"
            estimate = found.get(budget) if counts else None
            outcomes.append(
                BudgetOutcome(
                    settings=settings,
                    budget=budget,
                    limit=limit.value,
                    value=estimate[0] if estimate else None,
                    outcome=_outcome(budget, limit.value, estimate),
                    severity=limit.severity,
                )
            )
    return tuple(outcomes)


def _not_shipped(measured: Sequence[Settings], ships: str) -> set[Settings]:
    """List the rows beside one in the precision that the device ships; all count for fp32."""
    if ships == "fp32":
        return set()
    there = set(measured)
    return {
        settings for settings in measured
        if settings.precision != ships
        and settings.model_copy(update={"precision": ships}) in there
    }  # fmt: skip


def _absolute(result: Measured) -> dict[str, Estimate]:
    size = result.size_bytes / MIB
    return {
        "latency_p50_ms": percentile_bounds(result.latency_ms, 50),
        "latency_p90_ms": percentile_bounds(result.latency_ms, 90),
        "peak_rss_mib": (result.peak_rss_mib,) * 3,
        "size_mib": (size,) * 3,
    }


def _relative(result: Measured) -> dict[str, Estimate]:
    """Estimate what can be: the speed-up needs paired rounds, the drop the same check images."""
    found: dict[str, Estimate] = {}
    versus = result.speed_up
    if versus is not None:
        found["min_speed_up"] = (versus.ratio, versus.low, versus.high)
        found["latency_ratio"] = (1 / versus.ratio, 1 / versus.high, 1 / versus.low)
    before, after = result.baseline_accuracy, result.accuracy
    if before is not None and after is not None and before.images == after.images:
        # Both answered the same fixed images, so the difference is exact, not a sample.
        drop = 100 * (before.correct - after.correct) / after.images
        found["accuracy_drop_points"] = (drop,) * 3
    return found


def _outcome(budget: str, limit: float, estimate: Estimate | None) -> Outcome:
    if estimate is None:
        return NOT_EVALUATED
    _, low, high = estimate
    if budget in FLOORS:
        low, high, limit = -high, -low, -limit
    if high <= limit:
        return "kept"
    return "missed" if low > limit else "inconclusive"


def sign(budget: str) -> str:
    """Say on which side of its limit a budget is kept."""
    return ">=" if budget in FLOORS else "<="


def words(outcome: BudgetOutcome) -> str:
    """Say one outcome in a line, for example ``budget min_speed_up >= 2 for ...: kept (2.4)``."""
    verdict: str = outcome.outcome
    if outcome.value is not None:
        if verdict == "inconclusive":
            verdict += ", its interval straddles the limit"
        verdict += f" ({outcome.value:.3g})"
    elif Budgets.kind(outcome.budget) == "relative":
        verdict = "not evaluated, there is no baseline to compare with"
    limit = f"{sign(outcome.budget)} {outcome.limit:g}"
    return f"budget {outcome.budget} {limit} for {outcome.settings.row}: {verdict}"


def beyond(metrics: Metrics, report: BenchmarkReport) -> str | None:
    """Say it if a network that met a latency in its search is slower in the benchmark.

    A search measures before training, and in 8 bits a graph that ONNX Runtime's quantiser made.

    Parameters
    ----------
    metrics : Metrics
        The network.
    report : BenchmarkReport
        The benchmark.

    Returns
    -------
    str | None
        A sentence, if all of the interval lies clearly beyond the budget.
    """
    search = metrics.search
    if search is None or search.unit != "ms":
        return None
    times = _measured(metrics.name, search, report)
    before = _measured(BASELINE, search, report)
    if not times:
        return None
    # How much slower this machine is now than it was beside the search.
    pace = max(1.0, percentile(before, search.percentile) / search.base) if before else 1.0
    found, low, high = percentile_bounds(times, search.percentile)
    if low <= SLACK * pace * search.budget:
        return None
    bits = "" if search.precision == "fp32" else f" {search.precision}"
    return (
        f"{metrics.name} in {search.runtime}{bits}: p{search.percentile:g} is {found:.3g} ms "
        f"[{low:.3g}, {high:.3g}] in the benchmark, beyond its budget of {search.budget:.3g} ms"
    )


def _measured(bundle: str, search: Search, report: BenchmarkReport) -> Sequence[float]:
    """Look up a network's single latencies where a search measured; none if it was not there."""
    place = (bundle, search.runtime, search.device, search.threads, search.precision)
    for row in report.rows:
        at = row.settings
        if (at.bundle, at.runtime, at.device, at.threads, at.precision) == place:
            return row.result.latency_ms if isinstance(row.result, Measured) else ()
    return ()


def require_any(report: BenchmarkReport) -> None:
    """Refuse a benchmark in which nothing was measured.

    Parameters
    ----------
    report : BenchmarkReport
        The benchmark.

    Raises
    ------
    MissingDeviceError
        If every row was skipped.
    """
    skipped = [(row, row.result) for row in report.rows if isinstance(row.result, Skipped)]
    if skipped and len(skipped) == len(report.rows):
        row, result = skipped[0]
        raise errors.MissingDeviceError(
            f"nothing was measured, {row.settings.row} first: {result.reason}"
        )


def require(report: BenchmarkReport) -> None:
    """Turn a benchmark's negative findings into an error, after it has been shown.

    Parameters
    ----------
    report : BenchmarkReport
        The benchmark.

    Raises
    ------
    CapdeployError
        If a row that should have run broke, of the kind that it broke with.
    ParityError
        If a runtime answers differently from the network.
    BudgetError
        If a budget whose severity is ``fail`` is missed.
    """
    for row in report.rows:
        name = row.settings.row
        if isinstance(row.result, Skipped):
            if row.result.failed:
                kind = getattr(errors, row.result.error or "", StepFailedError)
                raise kind(f"{name}: {row.result.reason.removeprefix('failed: ')}")
            continue
        parity = row.result.parity
        if row.settings.exact and parity is not None and not parity.holds:
            raise ParityError(
                f"{name} answers differently from the network: max abs error "
                f"{parity.max_abs_error:.2g} (accepted {parity.atol:.2g}), top-1 agreement "
                f"{parity.top1_agreement:.1%}"
            )
    missed = [e for e in report.budgets if e.outcome == "missed" and e.severity == "fail"]
    if missed:
        raise BudgetError(
            f"{len(missed)} budget(s) of profile {report.profile} missed, first {words(missed[0])}"
        )

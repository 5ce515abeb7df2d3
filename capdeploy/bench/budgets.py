"""A profile's absolute budgets against the rows; on another machine they are not looked at."""

from __future__ import annotations

from collections.abc import Iterable

from capdeploy.bench.stats import percentile
from capdeploy.bundle import BASELINE
from capdeploy.errors import BudgetError, ParityError, StepFailedError
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import BenchmarkReport, BudgetOutcome, Measured, Row, Skipped

MIB = 1 << 20


def judge(
    rows: Iterable[Row], profile: HardwareProfile, *, is_device: bool
) -> tuple[BudgetOutcome, ...]:
    """Compare every measured row with every absolute budget of the profile.

    Parameters
    ----------
    rows : Iterable[Row]
        The benchmark's rows; those of the baseline and skipped ones are passed over.
    profile : HardwareProfile
        The budgets.
    is_device : bool
        Whether this machine is the profile's device.

    Returns
    -------
    tuple[BudgetOutcome, ...]
        One for each row and budget.
    """
    outcomes = []
    for row in rows:
        result = row.result
        if not isinstance(result, Measured) or row.settings.bundle == BASELINE:
            continue
        values = {
            "latency_p50_ms": percentile(result.latency_ms, 50),
            "latency_p90_ms": percentile(result.latency_ms, 90),
            "peak_rss_mib": result.peak_rss_mib,
            "size_mib": result.size_bytes / MIB,
        }
        for budget, value in values.items():
            limit = getattr(profile.budgets, budget)
            if limit is None:
                continue
            # A file is as large on any machine; time and memory are the device's own.
            counts = is_device or budget == "size_mib"
            verdict = "kept" if value <= limit.value else "missed"
            outcomes.append(
                BudgetOutcome(
                    settings=row.settings,
                    budget=budget,
                    limit=limit.value,
                    value=value if counts else None,
                    outcome=verdict if counts else "not evaluated on this host",
                    severity=limit.severity,
                )
            )
    return tuple(outcomes)


def require(report: BenchmarkReport) -> None:
    """Turn a benchmark's negative findings into an error, after it has been shown.

    Parameters
    ----------
    report : BenchmarkReport
        The benchmark.

    Raises
    ------
    StepFailedError
        If a row that should have run broke.
    ParityError
        If a runtime answers differently from the network.
    BudgetError
        If a budget whose severity is ``fail`` is missed.
    """
    for row in report.rows:
        name = f"{row.settings.bundle} in {row.settings.runtime} on {row.settings.device}"
        if isinstance(row.result, Skipped):
            if row.result.failed:
                raise StepFailedError(f"{name}: {row.result.reason}")
            continue
        parity = row.result.parity
        if parity is not None and not parity.holds:
            raise ParityError(
                f"{name} answers differently from the network: max abs error "
                f"{parity.max_abs_error:.2g} (accepted {parity.atol:.2g}), top-1 agreement "
                f"{parity.top1_agreement:.1%}"
            )
    missed = [e for e in report.budgets if e.outcome == "missed" and e.severity == "fail"]
    if missed:
        first = missed[0]
        raise BudgetError(
            f"{len(missed)} budget(s) of profile {report.profile} missed, first {first.budget}: "
            f"{first.value:.3g} > {first.limit:g} in {first.settings.runtime}"
        )

"""A profile's absolute budgets against the rows; on another machine they are not looked at."""

from __future__ import annotations

from collections.abc import Iterable

from capdeploy.bench.stats import percentile
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import BudgetOutcome, Measured, Row

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
        if not isinstance(result, Measured) or row.settings.bundle == "baseline":
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

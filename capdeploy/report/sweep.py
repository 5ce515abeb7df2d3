"""A sweep's tables: every network, and mean and range over the seeds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capdeploy.report import figures
from capdeploy.report.page import Page
from capdeploy.report.sections import Figure, Section
from capdeploy.report.tables import MIB, Table, count, milliseconds, percent
from capdeploy.values.sweep import SweepReport, SweepRow

SEED = "seed"
FILE = "sweep.json"


def read(folder: Path) -> SweepReport:
    """Read a sweep's record."""
    file = folder / FILE
    return SweepReport.from_json(file.read_bytes(), source=str(file))


def tables(report: SweepReport) -> list[Table]:
    """Show a sweep.

    Parameters
    ----------
    report : SweepReport
        What it gave.

    Returns
    -------
    list[Table]
        Every network; if seeds vary, the same over the seeds; runs that failed, and limits out of
        reach.
    """
    shown = [_everything(report)]
    if any(axis.name == SEED and len(axis.points) > 1 for axis in report.axes):
        shown.append(_over_seeds(report))
    if report.failures:
        rows = tuple((failure.run, failure.error) for failure in report.failures)
        shown.append(Table("What failed", ("run", "why"), rows))
    if report.out_of_reach:
        rows = tuple((each.run, each.error) for each in report.out_of_reach)
        shown.append(Table("Limits that no network meets", ("run", "why"), rows))
    return shown


def planned(runs: Sequence[Mapping[str, Any]], networks: int) -> Table:
    """List the runs that a sweep would make, each with its ``run`` and ``budgets``."""
    rows = tuple((each["run"], "; ".join(each["budgets"])) for each in runs)
    note = f"{len(rows)} runs, {networks} networks besides the head-cut one of each run"
    return Table("Runs", ("run", "budgets"), rows, (note,))


def _everything(report: SweepReport) -> Table:
    axes = [axis.name for axis in report.axes]
    columns = (*axes, "network", "accuracy [95 %]", "worst class", "MACs", "MiB", "p50 ms",
               "p90 ms", "speed-up", "front")  # fmt: skip
    rows = tuple(
        (*(row.point[axis] for axis in axes), _network(row), percent(row.accuracy),
         f"{row.accuracy.worst.top1:.1%} {row.accuracy.worst.name}", count(row.cost.macs),
         f"{row.size_bytes / MIB:.2f}", *_times(row), _front(row))
        for row in report.rows
    )  # fmt: skip
    notes = [
        "* on the Pareto front: no other network is at least as good in worst-class accuracy, p90 "
        "latency and size, and better in one"
        + (f"; one front for each {', '.join(report.question)}" if report.question else ""),
        *places(report.rows),
    ]
    notes += [row.missed for row in report.rows if row.missed is not None]
    if report.missing:
        notes.append(f"{len(report.missing)} run(s) not made yet: {', '.join(report.missing[:6])}")
    return Table("Sweep", columns, rows, tuple(notes))


def places(rows: Sequence[SweepRow]) -> list[str]:
    """Say where the latencies were measured."""
    found = dict.fromkeys(
        f"latency in {row.timing.runtime} on {row.timing.device}, {row.timing.threads} thread(s), "
        "each network alone; speed-up against the head-cut network, interleaved"
        for row in rows if row.timing is not None
    )  # fmt: skip
    return list(found) or ["latency was not measured"]


def _front(row: SweepRow) -> str:
    if row.missed is not None:
        return "missed"
    return "*" if row.best else ""


def _network(row: SweepRow) -> str:
    return row.bundle + ("" if row.precision == "fp32" else f" {row.precision}")


def _times(row: SweepRow) -> tuple[str, str, str]:
    if row.timing is None:
        return ("-", "-", "-")
    faster = row.timing.speed_up
    return (milliseconds(row.timing.p50_ms), milliseconds(row.timing.p90_ms),
            "-" if faster is None else f"{faster:.1f}x")  # fmt: skip


def _over_seeds(report: SweepReport) -> Table:
    axes = [axis.name for axis in report.axes if axis.name != SEED]
    groups: dict[tuple[str, ...], list[SweepRow]] = {}
    for row in report.rows:
        key = (*(row.point[axis] for axis in axes), _network(row))
        groups.setdefault(key, []).append(row)
    rows = tuple(
        (*key, str(len(found)),
         _spread([100 * row.accuracy.top1 for row in found], " %"),
         _spread([100 * row.accuracy.worst.top1 for row in found], " %"),
         _spread([float(row.timing.p90_ms) for row in found if row.timing is not None], " ms"))
        for key, found in groups.items()
    )  # fmt: skip
    columns = (*axes, "network", "seeds", "accuracy", "worst class", "p90")
    return Table("Over the seeds: mean (lowest..highest)", columns, rows)


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "-"
    mean = sum(values) / len(values)
    digits = 1 if unit == " %" else 3
    return f"{mean:.{digits}f}{unit} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def page(report: SweepReport, folder: str, *, plots: bool) -> Page:
    """Put a sweep's report together.

    Parameters
    ----------
    report : SweepReport
        What it gave.
    folder : str
        The sweep's folder, as the command that repeats it names it.
    plots : bool
        Draw figures too; they need matplotlib.

    Returns
    -------
    Page
        The fronts, every network, and what failed.
    """
    runs = len({row.run for row in report.rows})
    best = [row for row in report.rows if row.best]
    broken = [f"{len(report.failures)} failure(s)"] if report.failures else []
    broken += [f"{len(report.missing)} run(s) not made yet"] if report.missing else []
    missed = sum(row.missed is not None for row in report.rows)
    over = f"; {missed} of {len(report.rows)} rows miss a limit" if missed else ""
    over += f"; {len(report.out_of_reach)} limit(s) out of reach" if report.out_of_reach else ""
    everything, *others = tables(report)
    drawn = _fronts(report) if plots else []
    return Page(
        title="Sweep over " + ", ".join(axis.name for axis in report.axes),
        verdict=("; ".join(broken) or "every run is made, every graph answers as its network does")
        + over,
        good=not broken,
        facts=[("runs", str(runs)), ("networks", str(len(report.rows))),
               ("on a Pareto front", str(len(best)))],
        sections=[Section("Every network", [everything], drawn),
                  *(Section(table.title, [table]) for table in others)],
        command=f"capdeploy sweep {shlex.quote(f'{folder}/sweep-recipe.toml')} -o OUT",
    )  # fmt: skip


def _fronts(report: SweepReport) -> list[Figure]:
    groups: dict[str, list[SweepRow]] = {}
    for row in report.rows:
        name = ", ".join(row.point[axis] for axis in report.question) or "all networks"
        groups.setdefault(name, []).append(row)
    lines = [
        figures.Front(name, _spots(rows, best=True), _spots(rows, best=False))
        for name, rows in groups.items()
    ]
    if not any(line.best for line in lines):
        return []
    caption = (
        "Worst-class accuracy against p90 latency; up and left is better. Filled and joined: the "
        "Pareto front (size counts too); hollow: another is better, or too much is lost."
    )
    return [Figure(caption, figures.fronts(lines))]


def _spots(rows: Sequence[SweepRow], *, best: bool) -> list[tuple[float, float]]:
    return [(row.timing.p90_ms, row.accuracy.worst.top1) for row in rows
            if row.timing is not None and row.best is best]  # fmt: skip

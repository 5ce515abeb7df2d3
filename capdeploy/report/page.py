"""A run's report: what its JSON says, in the order in which a reader asks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capdeploy import bundle
from capdeploy.bench.budgets import NOT_EVALUATED, require, words
from capdeploy.errors import CapdeployError, UsageError
from capdeploy.report import budgets, sections, tables, trust
from capdeploy.report.sections import Section
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import BenchmarkReport, Measured, RunReport

REPORT = "report.json"


@dataclass(frozen=True)
class Page:
    """All that a report says.

    Parameters
    ----------
    title : str
        What was compressed.
    verdict : str
        One line.
    good : bool
        Whether every budget is kept and every proof holds.
    facts : Sequence[tuple[str, str]]
        The result in a few numbers: label, value.
    sections : Sequence[Section]
        In reading order.
    command : str
        What repeats the run.
    """

    title: str
    verdict: str
    good: bool
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section] = field(default_factory=tuple)
    command: str = ""


def read(folder: Path) -> tuple[RunReport, dict[str, PruningPlan]]:
    """Read a run's record and its bundles' plans.

    Parameters
    ----------
    folder : Path
        The output of ``capdeploy compress``.

    Returns
    -------
    tuple[RunReport, dict[str, PruningPlan]]
        The record, and each model's plan by name.

    Raises
    ------
    UsageError
        If there is no run in the folder.
    ConfigError
        If a document is not valid.
    """
    file = folder / REPORT
    if not file.is_file():
        raise UsageError(
            f"{folder} is no finished run: it has no {REPORT}; name the output of 'compress', "
            "'sweep' or 'train'"
        )
    report = RunReport.from_json(file.read_bytes(), source=str(file))
    found = {}
    for metrics in report.models:
        plan = folder / metrics.name / bundle.PLAN
        if plan.is_file():
            found[metrics.name] = PruningPlan.from_json(plan.read_bytes(), source=str(plan))
    return report, found


def page(report: RunReport, drawn: dict[str, PruningPlan], folder: str, *, plots: bool) -> Page:
    """Put a report together.

    Parameters
    ----------
    report : RunReport
        The record of a run.
    drawn : dict[str, PruningPlan]
        Its plans by model.
    folder : str
        The run's folder, as the command that repeats it names it.
    plots : bool
        Draw figures too; they need matplotlib.

    Returns
    -------
    Page
        Every section that there is something to say in.

    Raises
    ------
    MissingExtraError
        If matplotlib is wanted and not installed.
    """
    good, verdict = _verdict(report)
    asked = budgets.table(report)
    classes = ", ".join(report.classes.names[:6]) + (", ..." if len(report.classes) > 6 else "")
    shown = [
        Section("Before and after", [tables.summary(report)], sections.spots(report, plots)),
        *([Section("Budgets", [asked])] if asked.rows else []),
        *sections.precisions(report),
        *(sections.accuracy(metrics, plots) for metrics in report.models[1:] or report.models),
        *trust.shown(report),
        *sections.latency(report, plots),
        *sections.structure(report, drawn, plots),
        *sections.sensitivity(report, plots),
        Section("Parity with PyTorch", [sections.parity(report)]),
        *sections.environment(report),
    ]
    return Page(
        title=f"{report.checkpoint.architecture}: {len(report.classes)} of "
        f"{report.classes.total} classes ({classes})",
        verdict=verdict, good=good, facts=_facts(report), sections=shown,
        command=f"capdeploy compress -c {shlex.quote(f'{folder}/{bundle.RECIPE}')} -o OUT",
    )  # fmt: skip


def _verdict(report: RunReport) -> tuple[bool, str]:
    broken = [
        f"{metrics.name}: the {proof.stage} graph answers differently"
        for metrics in report.models for proof in metrics.artifact.parity if not proof.holds
    ]  # fmt: skip
    broken += report.misses
    benchmark = report.benchmark
    if not isinstance(benchmark, BenchmarkReport):
        line = f"not measured: {benchmark.reason}"
        return not broken, "; ".join([*broken, line])
    try:
        require(benchmark)
    except CapdeployError as error:
        broken.append(str(error))
    if benchmark.missing:
        broken.append(f"interrupted, {len(benchmark.missing)} row(s) not measured")
    if broken:
        return False, "; ".join(broken)
    kept = sum(each.outcome == "kept" for each in benchmark.budgets)
    judged = f"{kept} of {len(benchmark.budgets)} budgets kept" if benchmark.budgets else (
        f"profile {benchmark.profile} sets no budgets"
    )  # fmt: skip
    for outcome in ("inconclusive", NOT_EVALUATED):
        if count := sum(each.outcome == outcome for each in benchmark.budgets):
            judged += f", {count} {outcome}"
    warned = [f"warning: {words(each)}" for each in benchmark.budgets if each.outcome == "missed"]
    return True, "; ".join(["every graph answers as the network does", judged, *warned])


def _facts(report: RunReport) -> list[tuple[str, str]]:
    last, first = report.models[-1], report.models[0]
    low, high = last.accuracy[-1].interval
    facts = [
        ("model", last.name),
        ("top-1", f"{last.accuracy[-1].top1:.1%}"),
        ("95 % interval", f"{low:.1%} to {high:.1%}"),
        (first.start.stage, f"{first.start.top1:.1%}"),
        ("MACs", f"{last.before.macs / max(1, last.after.macs):.1f}x fewer"),
        ("parameters", f"{last.before.parameters / max(1, last.after.parameters):.1f}x fewer"),
    ]
    for row in sections.compared_rows(report):
        if row.settings.bundle == last.name and isinstance(row.result, Measured):
            found = row.result.speed_up
            if found is not None and row.settings.precision == "fp32":
                facts.append((row.settings.runtime, f"{found.ratio:.1f}x faster"))
    return facts

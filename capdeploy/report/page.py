"""A run's report: what its JSON says, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capdeploy import bundle, profiles
from capdeploy.bench.budgets import words
from capdeploy.bench.stats import percentile
from capdeploy.errors import ConfigError, UsageError
from capdeploy.report import figures, plans, precision, tables
from capdeploy.report.tables import Table
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import BenchmarkReport, Measured, Metrics, Row, RunReport

REPORT = "report.json"
MOST_GROUPS = 60
"""A plan with more groups is shown as a table alone."""


@dataclass(frozen=True)
class Figure:
    """A plot and what it shows, in words, for those who do not see it."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    text: Sequence[str] = ()


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
        raise UsageError(f"{folder} is no run: it has no {REPORT}; name the output of 'compress'")
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
    classes = ", ".join(report.classes.names[:6]) + (", ..." if len(report.classes) > 6 else "")
    sections = [
        Section("Before and after", [tables.summary(report)], _spots(report, plots)),
        *_precisions(report),
        *(_accuracy(metrics, plots) for metrics in report.models[1:] or report.models),
        *_latency(report, plots),
        *_structure(report, drawn, plots),
        Section("Parity with PyTorch", [_parity(report)]),
        *_environment(report),
    ]
    return Page(
        title=f"{report.checkpoint.architecture}: {len(report.classes)} of "
        f"{report.classes.total} classes ({classes})",
        verdict=verdict, good=good, facts=_facts(report), sections=sections,
        command=f"capdeploy compress -c {folder}/{bundle.RECIPE} -o OUT",
    )  # fmt: skip


def _verdict(report: RunReport) -> tuple[bool, str]:
    broken = [
        f"{metrics.name}: the {proof.stage} graph answers differently"
        for metrics in report.models for proof in metrics.artifact.parity if not proof.holds
    ]  # fmt: skip
    benchmark = report.benchmark
    if not isinstance(benchmark, BenchmarkReport):
        line = f"not measured: {benchmark.reason}"
        return not broken, "; ".join([*broken, line])
    missed = [words(each) for each in benchmark.budgets if each.outcome == "missed"]
    if broken or missed:
        return False, "; ".join([*broken, *missed])
    kept = sum(each.outcome == "kept" for each in benchmark.budgets)
    budgets = f"{kept} of {len(benchmark.budgets)} budgets kept" if benchmark.budgets else (
        f"profile {benchmark.profile} sets no budgets"
    )  # fmt: skip
    return True, f"every graph answers as the network does; {budgets}"


def _facts(report: RunReport) -> list[tuple[str, str]]:
    last, first = report.models[-1], report.models[0]
    low, high = last.accuracy[-1].interval
    facts = [
        ("top-1", f"{last.accuracy[-1].top1:.1%}"),
        ("95 % interval", f"{low:.1%} to {high:.1%}"),
        ("head cut", f"{first.accuracy[-1].top1:.1%}"),
        ("MACs", f"{last.before.macs / max(1, last.after.macs):.1f}x fewer"),
        ("parameters", f"{last.before.parameters / max(1, last.after.parameters):.1f}x fewer"),
    ]
    for row in _cpu_rows(report):
        if row.settings.bundle == last.name and isinstance(row.result, Measured):
            found = row.result.speed_up
            if found is not None and row.settings.precision == "fp32":
                facts.append((row.settings.runtime, f"{found.ratio:.1f}x faster"))
    return facts


def _cpu_rows(report: RunReport) -> Iterator[Row]:
    benchmark = report.benchmark
    for row in benchmark.rows if isinstance(benchmark, BenchmarkReport) else ():
        if row.settings.device == "cpu" and isinstance(row.result, Measured):
            yield row


def _spots(report: RunReport, plots: bool) -> list[Figure]:
    """Plot accuracy against the latency in the first runtime of graphs that was measured."""
    rows = [row for row in _cpu_rows(report) if row.settings.runtime != "pytorch"]
    if not plots or not rows:
        return []
    runtime = rows[0].settings.runtime
    known = {metrics.name: metrics for metrics in report.models}
    points = []
    for row in rows:
        at, result = row.settings, row.result
        if at.runtime != runtime or not isinstance(result, Measured) or at.bundle not in known:
            continue
        accuracy = _accuracy_of(known[at.bundle], runtime, at.precision)
        if accuracy is not None:
            bits = "" if at.precision == "fp32" else f" {at.precision}"
            points.append(figures.Spot(
                at.bundle + bits, percentile(result.latency_ms, 50), accuracy.top1,
                *accuracy.interval,
            ))  # fmt: skip
    caption = f"Accuracy against p50 latency in {runtime} on the CPU; up and left is better."
    return [Figure(caption, figures.spots(points, _budget_ms(report)))]


def _accuracy_of(metrics: Metrics, runtime: str, bits: str) -> Accuracy | None:
    if bits == "fp32":
        return metrics.accuracy[-1]
    return next((each.after for each in metrics.quantized
                 if (each.runtime, each.precision) == (runtime, bits)), None)  # fmt: skip


def _budget_ms(report: RunReport) -> float | None:
    for metrics in report.models:
        if metrics.search is not None:
            return metrics.search.budget_ms
    if isinstance(report.benchmark, BenchmarkReport):
        try:
            limit = profiles.load(report.benchmark.profile).budgets.latency_p50_ms
        except ConfigError:  # a profile of the user's that is not here
            return None
        return None if limit is None else limit.value
    return None


def _precisions(report: RunReport) -> list[Section]:
    table = precision.precisions(report)
    return [] if table is None else [Section("Fewer bits", [table])]


def _accuracy(metrics: Metrics, plots: bool) -> Section:
    before = next(
        (entry for entry in metrics.accuracy if entry.stage == "head cut"), metrics.accuracy[0]
    )
    drawn = []
    if plots and before is not metrics.accuracy[-1]:
        caption = f"Accuracy by class before and after, the worst of {metrics.name} on top."
        drawn.append(Figure(caption, figures.per_class(before, metrics.accuracy[-1])))
    if plots and metrics.training is not None and metrics.training.epochs:
        drawn.append(Figure("Training loss and validation accuracy by epoch.",
                            figures.training(metrics.training)))  # fmt: skip
    shown = [tables.stages(metrics), tables.per_class(metrics)]
    if metrics.confusion:
        shown.append(_confusion(metrics))
    return Section(f"Accuracy of {metrics.name}", shown, drawn)


def _confusion(metrics: Metrics) -> Table:
    names = [entry.name for entry in metrics.accuracy[-1].classes]
    rows = tuple(
        (name, *(str(count) if count else "" for count in row))
        for name, row in zip(names, metrics.confusion, strict=False)
    )
    title = f"{metrics.name}: who is taken for whom (rows: true class, columns: answer)"
    return Table(title, ("", *names), rows)


def _latency(report: RunReport, plots: bool) -> list[Section]:
    benchmark = report.benchmark
    if not isinstance(benchmark, BenchmarkReport):
        return []
    drawn = []
    runtimes = dict.fromkeys(row.settings.runtime for row in _cpu_rows(report))
    for runtime in runtimes if plots else ():
        lines = [
            (row.settings.row.replace(f" in {runtime}", "").removesuffix(" on cpu"),
             row.result.latency_ms)
            for row in _cpu_rows(report)
            if row.settings.runtime == runtime and isinstance(row.result, Measured)
        ]  # fmt: skip
        caption = f"Distribution of single latencies in {runtime}; left is faster, steep is steady."
        drawn.append(Figure(caption, figures.ecdf(lines, f"latency in {runtime}")))
    return [Section("Latency", [tables.benchmark(benchmark)], drawn)]


def _structure(report: RunReport, drawn: dict[str, PruningPlan], plots: bool) -> Iterator[Section]:
    for metrics in report.models:
        plan = drawn.get(metrics.name)
        if plan is None or not plan.budget.cuts:
            continue
        shown: list[Figure] = []
        if plots and len(plan.groups) <= MOST_GROUPS:
            caption = f"Channels of each coupled group that {metrics.name} keeps."
            shown.append(Figure(caption, figures.widths(plan)))
        candidates = [_candidates(plan)] if plan.search is not None else []
        yield Section(f"What {metrics.name} keeps", [plans.plan(plan), *candidates], shown)


def _candidates(plan: PruningPlan) -> Table:
    search = plan.search
    trials = search.trials if search is not None else ()
    rows = tuple(
        (str(place + 1), tables.count(trial.macs), tables.milliseconds(trial.estimated_ms),
         tables.milliseconds(trial.measured_ms),
         f"{trial.estimated_ms / trial.measured_ms - 1:+.0%}",
         "taken" if search is not None and place == search.chosen else "")
        for place, trial in enumerate(trials)
    )  # fmt: skip
    note = (search.sentence,) if search is not None else ()
    columns = ("candidate", "MACs", "estimated ms", "measured ms", "estimate off by", "")
    return Table("Search for the latency", columns, rows, note)


def _parity(report: RunReport) -> Table:
    rows = [
        (metrics.name, proof.stage, f"{proof.top1_agreement:.1%}", f"{proof.max_abs_error:.1e}",
         f"{proof.atol:.1e}", str(proof.images), "holds" if proof.holds else "FAILS")
        for metrics in report.models for proof in metrics.artifact.parity
    ]  # fmt: skip
    columns = ("model", "graph", "same top-1", "largest error", "accepted", "images", "")
    return Table("Every graph against the network it was made from", columns, tuple(rows))


def _environment(report: RunReport) -> list[Section]:
    benchmark = report.benchmark
    facts = [
        ("checkpoint", f"{report.checkpoint.file}, SHA-256 {report.checkpoint.sha256[:12]}"),
        ("strategy", f"{report.strategy}, {report.scored_images} images scored"),
        ("capdeploy", report.tool_version),
    ]
    text = []
    if isinstance(benchmark, BenchmarkReport):
        here = benchmark.environment
        facts += [*here.hard_keys().items(), *here.soft_keys().items(),
                  ("fingerprint", here.fingerprint)]  # fmt: skip
        text.append(f"One inference: {benchmark.includes}.")
        if benchmark.noise is not None:
            text.append(benchmark.noise.sentence)
    if report.bad_images:
        text.append(f"Unreadable images left out: {len(report.bad_images)}.")
    return [Section("Where and how", [Table("Environment", ("", ""), tuple(facts))], text=text)]

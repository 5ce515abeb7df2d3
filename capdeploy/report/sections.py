"""The sections of a run's report, each a question and its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from capdeploy import profiles
from capdeploy.bench.stats import percentile
from capdeploy.errors import ConfigError
from capdeploy.report import figures, plans, precision, tables
from capdeploy.report.tables import Table
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import BenchmarkReport, Measured, Metrics, Row, RunReport
from capdeploy.values.sensitivity import LEVELS, Curve

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


def compared_rows(report: RunReport) -> list[Row]:
    """Pick the measured rows of one device: of the CPU, or where it has none, of the first."""
    benchmark = report.benchmark
    rows = benchmark.rows if isinstance(benchmark, BenchmarkReport) else ()
    measured = [row for row in rows if isinstance(row.result, Measured)]
    devices = [row.settings.device for row in measured]
    chosen = "cpu" if "cpu" in devices else next(iter(devices), None)
    return [row for row in measured if row.settings.device == chosen]


def spots(report: RunReport, plots: bool) -> list[Figure]:
    """Plot accuracy against the latency in one runtime of graphs: a search's, or the first."""
    rows = [row for row in compared_rows(report) if row.settings.runtime != "pytorch"]
    if not plots or not rows:
        return []
    asked = {metrics.search.runtime for metrics in report.models if metrics.search is not None}
    rows = [row for row in rows if row.settings.runtime in asked] or rows
    runtime = rows[0].settings.runtime
    known = {metrics.name: metrics for metrics in report.models}
    points = []
    for row in rows:
        at, result = row.settings, row.result
        if at.runtime != runtime or not isinstance(result, Measured) or at.bundle not in known:
            continue
        top1 = _accuracy_of(known[at.bundle], runtime, at.precision)
        if top1 is not None:
            bits = "" if at.precision == "fp32" else f" {at.precision}"
            points.append(figures.Spot(
                at.bundle + bits, percentile(result.latency_ms, 50), top1.top1, *top1.interval,
            ))  # fmt: skip
    device = rows[0].settings.device
    where = "the CPU" if device == "cpu" else device
    caption = f"Accuracy against p50 latency in {runtime} on {where}; up and left is better."
    return [Figure(caption, figures.spots(points, _budgets_ms(report, rows[0])))]


def _accuracy_of(metrics: Metrics, runtime: str, bits: str) -> Accuracy | None:
    if bits == "fp32":
        return metrics.accuracy[-1]
    return next((each.after for each in metrics.quantized
                 if (each.runtime, each.precision) == (runtime, bits)), None)  # fmt: skip


def _budgets_ms(report: RunReport, row: Row) -> list[float]:
    """List the budgets that stand on the plot's own axis: p50, in the same place as its rows."""
    at = row.settings
    found = [
        metrics.search.budget
        for metrics in report.models
        if metrics.search is not None
        and (metrics.search.unit, metrics.search.percentile) == ("ms", 50)
        and (metrics.search.runtime, metrics.search.device, metrics.search.threads)
        == (at.runtime, at.device, at.threads)
    ]  # fmt: skip
    if isinstance(report.benchmark, BenchmarkReport) and not report.benchmark.emulated:
        try:
            limit = profiles.load(report.benchmark.profile).budgets.latency_p50_ms
        except ConfigError:  # a profile of the user's that is not here
            limit = None
        found += [limit.value] if limit is not None else []
    return found


def precisions(report: RunReport) -> list[Section]:
    """Show what fewer bits cost and save, if there are any."""
    table = precision.precisions(report)
    return [] if table is None else [Section("Fewer bits", [table])]


def accuracy(metrics: Metrics, plots: bool) -> Section:
    """Show one model by stage and by class, its training, and who is taken for whom."""
    before = metrics.start
    drawn = []
    if plots and before is not metrics.accuracy[-1]:
        caption = f"Accuracy by class before and after, the worst of {metrics.name} on top."
        drawn.append(Figure(caption, figures.per_class(before, metrics.accuracy[-1])))
    for step, history in enumerate((*metrics.earlier, metrics.training), 1):
        if plots and history is not None and history.epochs:
            which = f", training {step} of {len(metrics.earlier) + 1}" if metrics.earlier else ""
            caption = f"Training loss and validation accuracy by epoch{which}."
            drawn.append(Figure(caption, figures.training(history)))
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


def latency(report: RunReport, plots: bool) -> list[Section]:
    """Show every row of the benchmark, and how its latencies are spread."""
    benchmark = report.benchmark
    if not isinstance(benchmark, BenchmarkReport):
        return []
    drawn = []
    rows = compared_rows(report)
    runtimes = dict.fromkeys(row.settings.runtime for row in rows)
    for runtime in runtimes if plots else ():
        lines = [
            (row.settings.row.replace(f" in {runtime}", "").removesuffix(" on cpu"),
             row.result.latency_ms)
            for row in rows
            if row.settings.runtime == runtime and isinstance(row.result, Measured)
        ]  # fmt: skip
        caption = f"Distribution of single latencies in {runtime}; left is faster, steep is steady."
        drawn.append(Figure(caption, figures.ecdf(lines, f"latency in {runtime}")))
    return [Section("Latency", [tables.benchmark(benchmark)], drawn)]


def structure(report: RunReport, drawn: dict[str, PruningPlan], plots: bool) -> Iterator[Section]:
    """Show what remains of each group, and how a latency was searched."""
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


def sensitivity(report: RunReport, plots: bool) -> list[Section]:
    """Show what the allocation went by, if it went by curves."""
    if not report.sensitivity:
        return []
    drawn = [sensitivity_figure(report.sensitivity)] if plots else []
    notes = ("Estimated, for layers behind that make up for it as well as they can.",)
    estimated = any(curve.estimated for curve in report.sensitivity)
    table = sensitivity_table(report.sensitivity, notes if estimated else ())
    return [Section("Sensitivity", [table], drawn)]


def sensitivity_figure(curves: Sequence[Curve]) -> Figure:
    """Plot the curves; the most sensitive ones are named."""
    estimated = any(curve.estimated for curve in curves)
    how = "estimated, with the layers behind re-solved" if estimated else "nothing trained"
    caption = (
        f"Divergence of the answers from the whole network's as one group shrinks, {how}; "
        "the six most sensitive groups are named."
    )
    return Figure(caption, figures.sensitivity(curves))


def sensitivity_table(curves: Sequence[Curve], notes: tuple[str, ...] = ()) -> Table:
    """List every group's harm at the measured shares, the most sensitive first."""
    ordered = sorted(curves, key=lambda curve: -curve.at(0.5))
    rows = tuple(
        (curve.group, str(curve.width), *(f"{curve.at(level):.4f}" for level in LEVELS))
        for curve in ordered
    )
    columns = ("group", "channels", *(f"-{level:.3g}" for level in LEVELS))
    title = "Divergence of the answers (nats) when a share of one group is dropped"
    return Table(title, columns, rows, notes)


def _candidates(plan: PruningPlan) -> Table:
    search = plan.search
    trials = search.trials if search is not None else ()
    rows = tuple(
        (str(place + 1), tables.count(trial.macs), tables.milliseconds(trial.estimated),
         tables.milliseconds(trial.measured),
         f"{trial.estimated / trial.measured - 1:+.0%}",
         "taken" if search is not None and place == search.chosen else "")
        for place, trial in enumerate(trials)
    )  # fmt: skip
    note = (search.sentence,) if search is not None else ()
    unit = search.unit if search is not None else "ms"
    columns = ("candidate", "MACs", f"estimated {unit}", f"measured {unit}", "estimate off by", "")
    return Table("Search for the budget", columns, rows, note)


def parity(report: RunReport) -> Table:
    """List the proofs that every graph answers as its network does."""
    rows = [
        (metrics.name, proof.stage, f"{proof.top1_agreement:.1%}", f"{proof.max_abs_error:.1e}",
         f"{proof.atol:.1e}", str(proof.images), "holds" if proof.holds else "FAILS")
        for metrics in report.models for proof in metrics.artifact.parity
    ]  # fmt: skip
    columns = ("model", "graph", "same top-1", "largest error", "accepted", "images", "")
    return Table("Every graph against the network it was made from", columns, tuple(rows))


def environment(report: RunReport) -> list[Section]:
    """Say on what machine and how it was measured."""
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

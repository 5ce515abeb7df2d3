"""What was asked of every network, what it has, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator

from capdeploy.bench.budgets import sign
from capdeploy.report.tables import Table
from capdeploy.values.report import BenchmarkReport, Metrics, RunReport

Cells = tuple[str, str, str, str]


def table(report: RunReport) -> Table:
    """Put the budgets of a run together: the recipe's, and then the profile's, row by row.

    Parameters
    ----------
    report : RunReport
        The record of a run.

    Returns
    -------
    Table
        Without rows if nothing was asked.
    """
    rows = [cells for metrics in report.models[1:] for cells in _of_recipe(metrics)]
    rows += [("-", line.split()[0], line, "out of reach") for line in report.out_of_reach]
    if isinstance(report.benchmark, BenchmarkReport):
        rows += [
            (each.settings.row, f"{each.budget} {sign(each.budget)} {each.limit:g}",
             "-" if each.value is None else f"{each.value:.3g}", each.outcome)
            for each in report.benchmark.budgets
        ]  # fmt: skip
    return Table("Budgets", ("network", "asked", "reached", "verdict"), tuple(rows))


def _of_recipe(metrics: Metrics) -> Iterator[Cells]:
    before, after, search = metrics.before, metrics.after, metrics.search
    reached = (
        f"{metrics.realised_ratio:.1%} of filters cut; {after.macs / max(1, before.macs):.1%} of "
        f"MACs, {after.parameters / max(1, before.parameters):.1%} of parameters left"
    )
    if search is not None:
        reached = (
            f"{search.result.measured:.3g} of {search.budget:.3g} {search.unit} in "
            f"{search.runtime}, {search.precision}, before training; {reached}"
        )
    yield metrics.name, metrics.requested, reached, metrics.unmet or "met"
    if metrics.max_accuracy_drop is not None and metrics.lost is not None:
        asked = f"at most {metrics.max_accuracy_drop:g} points of top-1 lost"
        yield metrics.name, asked, f"{metrics.lost.points:+.1f}", metrics.missed or "met"

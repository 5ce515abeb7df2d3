"""What ``capdeploy compress`` prints at its end."""

from __future__ import annotations

from capdeploy.report import precision, tables
from capdeploy.report.tables import Table
from capdeploy.values.report import RunReport


def shown(report: RunReport, *, brief: bool) -> list[Table]:
    """List the tables of a run: every stage and class, the summary, fewer bits if there are any.

    Parameters
    ----------
    report : RunReport
        The record of the run.
    brief : bool
        Leave out stages and classes.

    Returns
    -------
    list[Table]
        In reading order.
    """
    models = report.models[1:] or report.models
    details = [] if brief else [
        table for model in models for table in (tables.stages(model), tables.per_class(model))
    ]  # fmt: skip
    bits = precision.precisions(report)
    return [*details, tables.summary(report), *([bits] if bits is not None else [])]

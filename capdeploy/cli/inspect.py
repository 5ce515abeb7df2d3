"""``capdeploy inspect``: shows what is in a bundle or a plan."""

from __future__ import annotations

from pathlib import Path

import click

from capdeploy.cli._output import format_option, tell


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@format_option
def command(path: Path, style: str) -> None:
    """Show the bundle at PATH (or all bundles of a run's folder), or a plan.json."""
    from capdeploy import bundle
    from capdeploy.report import manifest, plans, tables
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.report import Metrics

    if path.is_file() and path.suffix == ".json":
        drawn = PruningPlan.from_json(path.read_bytes(), source=str(path))
        tell(style, drawn.to_json(), [plans.plan(drawn), plans.members(drawn)])
        return
    documents = []
    for entry in bundle.find(path):
        metrics_file, plan_file = entry.path(bundle.METRICS), entry.path(bundle.PLAN)
        metrics = Metrics.from_json(metrics_file.read_bytes(), source=str(metrics_file))
        drawn = PruningPlan.from_json(plan_file.read_bytes(), source=str(plan_file))
        shown = [manifest.table(entry.manifest), tables.stages(metrics), tables.per_class(metrics)]
        documents.append(entry.manifest.to_json())
        if style != "json":
            tell(style, documents[-1], [*shown, plans.plan(drawn)])
    if style == "json":
        whole = documents[0] if len(documents) == 1 else f"[{','.join(documents)}]"
        tell(style, whole, [])

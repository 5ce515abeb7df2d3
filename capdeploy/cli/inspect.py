"""``capdeploy inspect``: shows what is in a checkpoint, a bundle or a plan."""

from __future__ import annotations

from pathlib import Path

import click

from capdeploy.cli._options import Numbers, Words, pairs
from capdeploy.cli._output import format_option, tell


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--arch", help="Of a checkpoint, if it is not found by the weights.")
@click.option("--input-size", type=Numbers(2, 2, whole=True), help="Of a checkpoint; 224.")
@click.option("--state-key", help="Where in the checkpoint the weights are.")
@click.option("--strip-prefix", help="Taken away from the front of every name.")
@click.option("--ignore-keys", type=Words(), default="", help="Tensor names that may differ.")
@click.option("--trust-checkpoint", is_flag=True, help="Unpickle it: that runs its code.")
@click.option("--arch-arg", multiple=True, metavar="KEY=VALUE", help="For the architecture.")
@format_option
def command(
    path: Path,
    arch: str | None,
    input_size: list[int] | None,
    state_key: str | None,
    strip_prefix: str | None,
    ignore_keys: list[str],
    trust_checkpoint: bool,
    arch_arg: tuple[str, ...],
    style: str,
) -> None:
    """Show the checkpoint, bundle, run's folder or plan.json at PATH."""
    from capdeploy.errors import ConfigError, UsageError

    if not path.exists():
        raise UsageError(
            f"{path}: no such file or folder; name a checkpoint, a bundle, a run's folder or a "
            "plan.json"
        )
    if not path.is_file():
        _bundles(path, style)
    elif path.suffix == ".json":
        from capdeploy.report import plans
        from capdeploy.values.plan import PruningPlan

        try:
            drawn = PruningPlan.from_json(path.read_bytes(), source=str(path))
        except ConfigError as error:
            raise ConfigError(f"{error}; of JSON files only a plan.json is shown") from error
        tell(style, drawn.to_json(), [plans.plan(drawn), plans.members(drawn)])
    else:
        from capdeploy import stages
        from capdeploy.report import inspection
        from capdeploy.values.checkpoint import Architecture
        from capdeploy.weights import Reading

        if arch_arg and arch is None:
            raise ConfigError("--arch-arg is for an architecture that is named; add --arch")
        size = (input_size[0], input_size[1]) if input_size else None
        known = Architecture.parse(arch) if arch else None
        if known is not None:
            known = known.model_copy(update={"arguments": pairs(arch_arg, "--arch-arg")})
        how = Reading(state_key, strip_prefix, trust_checkpoint, tuple(ignore_keys))
        found = stages.inspect(path, known, size, how)
        tell(style, found.to_json(), [inspection.table(found)])


def _bundles(path: Path, style: str) -> None:
    from capdeploy import bundle
    from capdeploy.errors import DigestError
    from capdeploy.report import manifest, plans, tables
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.report import Metrics

    documents = []
    for entry in bundle.find(path):
        metrics_file, plan_file = entry.path(bundle.METRICS), entry.path(bundle.PLAN)
        for file in (metrics_file, plan_file):
            if not file.is_file():
                raise DigestError(f"{file} is missing; copy the bundle again")
        metrics = Metrics.from_json(metrics_file.read_bytes(), source=str(metrics_file))
        drawn = PruningPlan.from_json(plan_file.read_bytes(), source=str(plan_file))
        shown = [manifest.table(entry.manifest), tables.stages(metrics), tables.per_class(metrics)]
        documents.append(entry.manifest.to_json())
        if style != "json":
            tell(style, documents[-1], [*shown, plans.plan(drawn)])
    if style == "json":
        whole = documents[0] if len(documents) == 1 else f"[{','.join(documents)}]"
        tell(style, whole, [])

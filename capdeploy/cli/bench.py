"""``capdeploy bench``: measure bundles in every runtime of a profile."""

from __future__ import annotations

from pathlib import Path

import click

from capdeploy.cli._options import Finite, Words
from capdeploy.cli._output import Progress, format_option, tell


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--profile", default="this-host", show_default=True, help="Name or .toml file.")
@click.option("--runtimes", type=Words(), help="Default: the profile's.")
@click.option(
    "--devices", type=Words(), help="cpu, cuda, tensorrt, gpu, npu; default: the profile's."
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the profile's.")
@click.option("--batch", type=click.IntRange(min=1), help="Default: the profile's.")
@click.option(
    "--seconds",
    type=Finite(min=0.1),
    default=3.0,
    show_default=True,
    help="Measuring time of a row.",
)
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "offline"]),
    help="One image at a time, or images a second in large batches; default: the profile's.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the JSON here.")
@click.option("--force", is_flag=True, help="Replace an existing --output.")
@click.option("--trust-factory", is_flag=True, help="Let a bundle name code that builds it.")
@format_option
def command(
    bundles: tuple[Path, ...],
    profile: str,
    runtimes: list[str] | None,
    devices: list[str] | None,
    threads: int | None,
    batch: int | None,
    seconds: float,
    scenario: str | None,
    output: Path | None,
    force: bool,
    trust_factory: bool,
    style: str,
) -> None:
    """Measure BUNDLES (or all bundles of a run's folder), each row in a process of its own."""
    from capdeploy import bundle, profiles, recipes, textfile
    from capdeploy.bench import budgets, matrix
    from capdeploy.errors import ConfigError, OutputExistsError
    from capdeploy.report import tables

    found = [entry for path in bundles for entry in bundle.find(path)]
    owners: dict[str, bundle.Bundle] = {}
    for entry in found:
        if (other := owners.setdefault(entry.manifest.name, entry)) is not entry:
            raise ConfigError(
                f"{other.folder} and {entry.folder} are both called {entry.manifest.name}; bench "
                "them one by one, or compare two with capdeploy gate"
            )
        for side in (entry, entry.baseline()):
            if side is not None:
                bundle.verify(side)
    given = {
        "runtimes": runtimes, "devices": devices, "threads": threads, "batch": batch,
        "scenario": scenario,
    }  # fmt: skip
    if output is not None:
        textfile.require_writable(output)
        if output.exists() and not force:
            raise OutputExistsError(f"{output} exists; choose another --output or add --force")
    wanted = recipes.with_runtime(profiles.load(profile), given)
    report = matrix.run(found, wanted, seconds=seconds, say=Progress(), trust_factory=trust_factory)
    tell(style, report.to_json(), [tables.benchmark(report, wide=style == "md")])
    if output is not None:
        textfile.write(output, report.to_json(), force=force)
    matrix.conclude(report)
    budgets.require_any(report)

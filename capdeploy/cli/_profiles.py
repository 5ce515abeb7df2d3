"""The verbs of ``capdeploy profiles`` that write: a new profile, a draft, a measured align."""

from __future__ import annotations

import json
from pathlib import Path

import click

from capdeploy.cli._options import Finite, Words
from capdeploy.cli._output import Progress, format_option, tell

OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--inherits", metavar="BASE", help="Profile to build on: a name or a .toml file.")
@click.option("-o", "--output", type=OUTPUT, help="File to write; default: ID.toml.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def new(id_: str, inherits: str | None, output: Path | None, force: bool) -> None:
    """Write a profile called ID to fill in; it is valid as it stands."""
    from capdeploy import textfile
    from capdeploy.bench import drafts

    path = output or Path(f"{id_}.toml")
    text = drafts.template(id_, inherits=inherits, folder=path.parent)
    textfile.write(path, text, force=force)
    click.echo(f"{path}: written; fill it in, then: capdeploy profiles validate {path}")


@click.command()
@format_option
def detect(style: str) -> None:
    """Say which profiles this machine is the device of, and draft one of it."""
    from capdeploy.bench import drafts, environment
    from capdeploy.report.tables import Table

    here = environment.read()
    names, draft = drafts.matching(here), drafts.of_machine(here)
    if style == "text":
        click.echo(f"# This machine matches: {', '.join(names)}\n\n{draft}", nl=False)
        return
    document = {
        "schema_version": 1,
        "environment": json.loads(here.to_json()),
        "matching": names,
        "draft": draft,
    }
    facts = tuple((key, str(value)) for key, value in here.model_dump().items())
    tables = [Table("This machine", ("", "found"), (*facts, ("profiles", ", ".join(names))))]
    tell(style, json.dumps(document), tables)


@click.command()
@click.option("--runtimes", type=Words(), help="onnxruntime, openvino; default: those installed.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the profile's, or 1.")
@click.option(
    "--seconds", type=Finite(min=0.1), default=45.0, show_default=True,
    help="Measuring time in all.",
)  # fmt: skip
@click.option("-o", "--output", type=OUTPUT, help="Profile to write the measured align into.")
@format_option
def tune(
    runtimes: list[str] | None, threads: int | None, seconds: float, output: Path | None, style: str
) -> None:
    """Measure which channel multiple (align) pays on this machine."""
    from capdeploy.report import tuning as tables
    from capdeploy.stages import tuning

    say = Progress()
    profile = tuning.target(output, say)
    threads = threads or (profile.runtime.threads if profile else 1)
    found = tuning.measure(runtimes or (), threads=threads, seconds=seconds, say=say)
    tell(style, found.to_json(), [tables.table(found)])
    if output is not None:
        tuning.write(found, output)
        click.echo(f"{output}: align = {found.align}", err=True)

"""``capdeploy report``: one page of a run, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from capdeploy.cli._output import line


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: report.html and report.md in it, or print.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "-f", "--format", "style", type=click.Choice(["html", "md", "json"]), default="html",
    show_default=True,
    help="html is written to a file, md beside it; md and json are printed; --output names a file.",
)  # fmt: skip
def command(folder: Path, output: Path | None, force: bool, style: str) -> None:
    """Write a report of what is in FOLDER, the output of compress, sweep or train.

    The HTML file holds its styles and plots; it needs no network and runs no script.
    """
    from capdeploy import textfile
    from capdeploy.errors import OutputExistsError
    from capdeploy.report import html, page, sweep, training
    from capdeploy.values.training import FILE

    report: Any
    if (folder / sweep.FILE).is_file():
        report = sweep.read(folder)
        made = sweep.page(report, str(folder), plots=style == "html")
    elif (folder / FILE).is_file():
        report = training.read(folder)
        made = training.page(report, folder, plots=style == "html")
    else:
        report, plans = page.read(folder)
        made = page.page(report, plans, str(folder), plots=style == "html")
    if style == "json":
        text = report.to_json().rstrip()
    else:
        text = html.plain(made) if style == "md" else html.render(made)
    files = {output: text} if output is not None else {}
    if output is None and style == "html":
        files = {folder / "report.html": text, folder / "report.md": html.plain(made)}
    if not files:
        click.echo(text.rstrip())
    # Before either is written.
    standing = [file for file in files if file.exists()]
    if standing and not force:
        raise OutputExistsError(f"{standing[0]} exists; choose another --output or add --force")
    for file, content in files.items():
        textfile.write(file, f"{content.rstrip()}\n", force=True)
        line(str(file))

"""``capdeploy report``: one page of a run, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: report.html in it.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "-f", "--format", "style", type=click.Choice(["html", "md", "json"]), default="html",
    show_default=True, help="html writes a file; md and json are printed.",
)  # fmt: skip
def command(folder: Path, output: Path | None, force: bool, style: str) -> None:
    """Write a report of the run or sweep in FOLDER, the output of compress or sweep.

    The HTML file holds its styles and plots; it needs no network and runs no script.
    """
    from capdeploy import workplace
    from capdeploy.report import html, page, sweep

    report: Any
    if (folder / sweep.FILE).is_file():
        report = sweep.read(folder)
        made = sweep.page(report, str(folder), plots=style == "html")
    else:
        report, plans = page.read(folder)
        made = page.page(report, plans, str(folder), plots=style == "html")
    if style == "json":
        click.echo(report.to_json().rstrip())
        return
    if style == "md":
        click.echo(html.plain(made))
        return
    target = output or folder / "report.html"
    workplace.write_file(target, html.render(made), force=force)
    click.echo(target)

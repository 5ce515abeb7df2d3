"""``capdeploy verify``: checks that a bundle is what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import click

from capdeploy.cli._output import format_option, tell


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@format_option
def command(path: Path, style: str) -> None:
    """Check every file of the bundle at PATH (or of all bundles of a run's folder)."""
    from capdeploy import bundle
    from capdeploy.errors import CapdeployError
    from capdeploy.report.tables import Table

    wrong: list[CapdeployError] = []
    entries = []
    for entry in bundle.find(path):
        said = {"name": entry.manifest.name, "files": len(entry.manifest.files), "ok": True}
        try:
            bundle.verify(entry)
            bundle.require_parity(entry)
        except CapdeployError as error:  # the others are looked at too, then it is raised
            wrong.append(error)
            said |= {"ok": False, "problem": str(error)}
        entries.append(said)
    rows = tuple(
        (str(said["name"]), str(said["files"]), str(said.get("problem", "ok"))) for said in entries
    )
    document = {"schema_version": 1, "bundles": entries}
    tell(style, json.dumps(document), [Table("Verified", ("bundle", "files", "result"), rows)])
    if wrong:
        # A damaged bundle (1) is told before one that cannot be read (2).
        raise min(wrong, key=lambda error: error.exit_code)

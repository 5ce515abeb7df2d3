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
    from capdeploy.report.tables import Table

    found = bundle.find(path)
    for entry in found:
        bundle.verify(entry)
        bundle.require_parity(entry)
    rows = tuple((entry.manifest.name, str(len(entry.manifest.files)), "ok") for entry in found)
    document = {
        "schema_version": 1,
        "bundles": [{"name": name, "files": int(files), "ok": True} for name, files, _ in rows],
    }
    tell(style, json.dumps(document), [Table("Verified", ("bundle", "files", "result"), rows)])

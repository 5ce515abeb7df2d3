"""``capdeploy verify``: checks that a bundle is what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from capdeploy.cli._output import format_option, tell


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@format_option
def command(path: Path, style: str) -> None:
    """Check every file of the bundle at PATH (or of all bundles of a run's folder)."""
    from capdeploy import bundle
    from capdeploy.errors import CapdeployError, UsageError
    from capdeploy.report.tables import Table

    wrong: list[CapdeployError] = []
    entries = []
    folders = bundle.folders(path)
    for folder in folders:
        said: dict[str, Any] = {"name": folder.resolve().name, "files": 0, "ok": True}
        try:
            entry = bundle.read(folder)
            said |= {"name": entry.manifest.name, "files": len(entry.manifest.files)}
            bundle.verify(entry)
            bundle.require_parity(entry)
        except CapdeployError as error:  # the others are looked at too, then it is raised
            if isinstance(error, UsageError) and len(folders) == 1:
                raise  # it is no bundle at all
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

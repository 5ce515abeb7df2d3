"""Finds a hardware profile by name or path."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError
from capdeploy.values.profile import HardwareProfile, overlay

_PACKAGE = Path(__file__).parent
# The wheel carries the profiles inside the package; a source checkout has them beside it.
FOLDER = next(
    (
        folder
        for folder in (_PACKAGE / "_profiles", _PACKAGE.parent / "profiles")
        if folder.is_dir()
    ),
    _PACKAGE / "_profiles",
)


def names() -> tuple[str, ...]:
    """List the profiles that capdeploy ships."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> HardwareProfile:
    """Read a profile, with all that it inherits.

    Parameters
    ----------
    name : str
        The name of a shipped profile, or the path of a TOML file.

    Returns
    -------
    HardwareProfile
        The merged profile.

    Raises
    ------
    ConfigError
        If there is no such profile, the file is not TOML, it inherits from itself, or a value
        is not valid.
    """
    table = _table(name, ())
    return HardwareProfile.from_plain(table, source=f"profile {name}")


def _table(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"profile {name} inherits from itself: {' > '.join((*seen, name))}")
    path = _path(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"profile {path}: not valid TOML: {error}") from error
    parent = table.get("inherits")
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ConfigError(f"profile {path}: inherits must be the name of a profile")
    return overlay(_table(parent, (*seen, name)), table)


def _path(name: str) -> Path:
    if name in names():
        return FOLDER / f"{name}.toml"
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    raise ConfigError(f"unknown profile '{name}'; {nearest(name, names())}, or give a .toml file")

"""Finds a hardware profile by name or path, and says what is wrong with one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError, printable
from capdeploy.values.noun import in_words, toml_table
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
    profile, faults = _read(name)
    if profile is None:
        rest = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ConfigError(f"profile {name}: {faults[0]}{rest}")
    return profile


def findings(name: str) -> tuple[str, ...]:
    """Say everything that is wrong with a profile, one line for each fault.

    Parameters
    ----------
    name : str
        The name of a shipped profile, or the path of a TOML file.

    Returns
    -------
    tuple[str, ...]
        Empty if the profile is valid.
    """
    try:
        return _read(name)[1]
    except ConfigError as error:
        return (str(error),)


def _read(name: str) -> tuple[HardwareProfile | None, tuple[str, ...]]:
    table = _table(name, ())
    try:
        return HardwareProfile.model_validate(table), ()
    except ValidationError as error:
        return None, tuple(_in_words(fault) for fault in error.errors(include_url=False))


def _in_words(fault: ErrorDetails) -> str:
    if fault["type"] != "extra_forbidden":
        return in_words(fault)
    *tables, key = map(str, fault["loc"])
    known = _keys(tables)
    place = f"[{'.'.join(tables)}]" if tables else "the top level"
    return printable(f"unknown key '{key}' in {place}; {nearest(key, known, most=20)}")


def _keys(tables: list[str]) -> tuple[str, ...]:
    """List the keys of a nested table, by the names that a file uses."""
    kind: type[BaseModel] = HardwareProfile
    for name in tables:
        found = kind.model_fields[name].annotation
        # An optional table is annotated as `Limit | None`.
        choices = getattr(found, "__args__", None) or (found,)
        kind = next(entry for entry in choices if isinstance(entry, type))
    return tuple(field.alias or name for name, field in kind.model_fields.items())


def _table(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"profile {name} inherits from itself: {' > '.join((*seen, name))}")
    path = _path(name)
    try:
        table = toml_table(path.read_bytes(), source=f"profile {path}")
    except OSError as error:
        raise ConfigError(f"profile {path} cannot be read: {error.strerror}") from error
    parent = table.get("inherits")
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ConfigError(f"profile {path}: inherits must be the name of a profile")
    if parent.endswith(".toml"):  # of this file's folder, unless the path is whole
        parent = str(path.parent / parent)
    return overlay(_table(parent, (*seen, name)), table)


def _path(name: str) -> Path:
    if name in names():
        return FOLDER / f"{name}.toml"
    path = Path(name)
    with contextlib.suppress(OSError):  # a name that no file can have
        if path.suffix == ".toml" and path.is_file():
            return path
    raise ConfigError(f"unknown profile '{name}'; {nearest(name, names())}, or give a .toml file")

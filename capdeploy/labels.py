"""Which output of the head each data class is, and which classes the user means."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from capdeploy.catalog import nearest
from capdeploy.errors import ClassesError, ConfigError
from capdeploy.values.classes import ClassSubset
from capdeploy.values.noun import first_fault


def read_names(path: Path) -> tuple[str, ...]:
    """Read a labels file: one name a line, in output order.

    Parameters
    ----------
    path : Path
        UTF-8 text; blank lines at the end are ignored.

    Returns
    -------
    tuple[str, ...]
        Names in output order.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    return tuple(line.strip() for line in _text(path).rstrip().splitlines())


def read_map(path: Path) -> dict[str, int]:
    """Read a label map: a JSON or TOML table from data class to output id.

    Parameters
    ----------
    path : Path
        A ``.json`` or ``.toml`` file.

    Returns
    -------
    dict[str, int]
        Data class name to output id.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not such a table.
    """
    try:
        table = (tomllib.loads if path.suffix == ".toml" else json.loads)(_text(path))
    except ValueError as error:
        raise ConfigError(f"label map {path} is not valid JSON or TOML: {error}") from error
    if not isinstance(table, dict) or not all(type(index) is int for index in table.values()):
        raise ConfigError(f"label map {path} must be a table from data class to output id")
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def link(
    names: Sequence[str],
    outputs: int,
    labels: Sequence[str] | None = None,
    label_map: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Say which output of the head each data class is.

    Parameters
    ----------
    names : Sequence[str]
        The data's class names, in the order of its labels.
    outputs : int
        Width of the full head.
    labels : Sequence[str] | None
        Names in output order.
    label_map : Mapping[str, int] | None
        Data class to output id; wins over `labels`.

    Returns
    -------
    dict[str, int]
        Data class name to output id, in the order of `names`.

    Raises
    ------
    ClassesError
        If a data class has no output, an id is out of range, or two classes have the same.
    """
    if labels is not None and len(labels) != outputs:
        raise ClassesError(f"the labels file has {len(labels)} names, the head {outputs} outputs")
    if label_map is not None:
        known = dict(label_map)
    elif labels is not None:
        known = {name: index for index, name in enumerate(labels)}
    elif len(names) == outputs:
        known = {name: index for index, name in enumerate(names)}
    else:
        raise ClassesError(
            f"the data has {len(names)} classes, the head {outputs} outputs; say which output each "
            "is with --labels FILE (one name a line, in output order) or --label-map FILE"
        )
    repeated = [name for name in names if labels and list(labels).count(name) > 1]
    if repeated and label_map is None:
        raise ClassesError(f"{repeated[0]!r} stands more than once in the labels; use --label-map")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ClassesError(
            f"data class {unknown[0]} ({len(unknown)} such) has no output in the labels; "
            "add it, or use --label-map"
        )
    linked = {name: known[name] for name in names}
    for name, index in linked.items():
        if not 0 <= index < outputs:
            raise ClassesError(f"data class {name} is output {index}, outside 0..{outputs - 1}")
    if len(set(linked.values())) != len(linked):
        raise ClassesError("two data classes have the same output in the labels")
    return linked


def choose(
    wanted: Sequence[str],
    linked: Mapping[str, int],
    outputs: int,
    labels: Sequence[str] | None = None,
) -> tuple[ClassSubset, tuple[int, ...]]:
    """Find the classes that the user means.

    Parameters
    ----------
    wanted : Sequence[str]
        Data class names, label names or output ids, in output order; empty: all of the data's.
    linked : Mapping[str, int]
        Data class name to output id, from `link`.
    outputs : int
        Width of the full head.
    labels : Sequence[str] | None
        Names in output order.

    Returns
    -------
    tuple[ClassSubset, tuple[int, ...]]
        The kept classes in the user's order, and the data class of each.

    Raises
    ------
    ClassesError
        If a class is unknown, ambiguous, repeated, without data, or there are fewer than two.
    """
    names = list(linked)
    data_of = {index: position for position, index in enumerate(linked.values())}
    kept = [_find(word, linked, labels or (), outputs) for word in wanted] or list(data_of)
    for word, index in zip(wanted, kept, strict=False):
        if index not in data_of:
            raise ClassesError(f"class {word} (output {index}) has no images in the data")
    shown = [labels[index] if labels else names[data_of[index]] for index in kept]
    try:
        subset = ClassSubset(kept=tuple(kept), names=tuple(shown), total=outputs)
    except ValidationError as error:
        raise ClassesError(f"--classes: {first_fault(error).partition(', found')[0]}") from error
    return subset, tuple(data_of[index] for index in kept)


def _find(word: str, linked: Mapping[str, int], labels: Sequence[str], outputs: int) -> int:
    meanings = set()
    if word in linked:
        meanings.add(linked[word])
    if word in labels:
        meanings.add(labels.index(word))
    if word.isdecimal() and int(word) < outputs:
        meanings.add(int(word))
    if len(meanings) > 1:
        raise ClassesError(
            f"class '{word}' is ambiguous: output {' or '.join(map(str, sorted(meanings)))}"
        )
    if not meanings:
        known = tuple(dict.fromkeys([*linked, *labels]))
        raise ClassesError(f"unknown class '{word}': {nearest(word, known)}")
    return meanings.pop()

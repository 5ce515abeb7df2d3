"""Which output of the head each data class is, and which classes the user means."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from capdeploy import imagenet
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
    except (ValueError, RecursionError) as error:
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
    aliases: Mapping[str, Sequence[str]] | None = None,
    *,
    partial: bool = False,
) -> dict[str, int]:
    """Say which output of the head each data class is.

    Parameters
    ----------
    names : Sequence[str]
        The data's class names, in the order of its labels.
    outputs : int
        Width of the full head.
    labels : Sequence[str] | None
        Names in output order; a head may have more outputs than there are names.
    label_map : Mapping[str, int] | None
        Data class, by any of its names, to output id; wins over `labels`.
    aliases : Mapping[str, Sequence[str]] | None
        Other names of the data classes.
    partial : bool
        The head may know fewer classes than the data has; the others are left out.

    Returns
    -------
    dict[str, int]
        Data class name to output id, in the order of `names`. Without labels or map, classes of
        ImageNet are known by their WordNet ids, and other data must have as many as the head.

    Raises
    ------
    ClassesError
        If a data class has no output, an id is out of range, or two classes have the same.
    """
    if labels is not None and len(labels) > outputs:
        raise ClassesError(f"the labels file has {len(labels)} names, the head {outputs} outputs")
    known = _known(names, outputs, labels, label_map, aliases or {})
    unknown = [name for name in names if name not in known]
    if unknown and not partial:
        raise ClassesError(
            f"data class {unknown[0]} ({len(unknown)} such) has no output in the labels; "
            "add it, or use --label-map"
        )
    linked = {name: known[name] for name in names if name in known}
    owners: dict[int, str] = {}
    for name, index in linked.items():
        if not 0 <= index < outputs:
            raise ClassesError(f"data class {name} is output {index}, outside 0..{outputs - 1}")
        if (other := owners.setdefault(index, name)) != name:
            raise ClassesError(
                f"data classes {other} and {name} both are output {index}; each needs its own, "
                "mend the labels or the --label-map"
            )
    return linked


def _known(
    names: Sequence[str],
    outputs: int,
    labels: Sequence[str] | None,
    label_map: Mapping[str, int] | None,
    aliases: Mapping[str, Sequence[str]],
) -> Mapping[str, int]:
    table = (
        label_map if label_map is not None
        else {name: index for index, name in enumerate(labels)} if labels is not None
        else imagenet.output_of() if outputs == imagenet.CLASSES else {}
    )  # fmt: skip
    times = Counter(labels if label_map is None else ())
    found = {}
    for name in names:
        word = next((word for word in (name, *aliases.get(name, ())) if word in table), None)
        if word is None:
            continue
        if times[word] > 1:
            raise ClassesError(f"{word!r} stands more than once in the labels; use --label-map")
        found[name] = table[word]
    if label_map is not None or labels is not None or len(found) == len(names):
        return found
    if len(names) == outputs:
        return {name: index for index, name in enumerate(names)}
    raise ClassesError(
        f"the data has {len(names)} classes, the head {outputs} outputs; say which output each "
        "is with --labels FILE (one name a line, in output order) or --label-map FILE"
    )


def choose(
    wanted: Sequence[str],
    linked: Mapping[str, int],
    outputs: int,
    labels: Sequence[str] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[ClassSubset, tuple[int, ...]]:
    """Find the classes that the user means.

    Parameters
    ----------
    wanted : Sequence[str]
        Data class names, other names of them, label names, output ids (``7``, or ``id:7`` where a
        class has that name), ranges of ids (``0-9``), globs (``speed-*``) or files of such words
        (``@FILE``), in output order; empty: all of the data's.
    linked : Mapping[str, int]
        Data class name to output id, from `link`.
    outputs : int
        Width of the full head.
    labels : Sequence[str] | None
        Names in output order.
    aliases : Mapping[str, Sequence[str]] | None
        Other names of the data classes.
    names : Sequence[str] | None
        The data's class names in the order of its labels; None: those of `linked`.

    Returns
    -------
    tuple[ClassSubset, tuple[int, ...]]
        The kept classes in the user's order, and the data class of each.

    Raises
    ------
    ClassesError
        If a class is unknown, ambiguous, repeated, without data, or there are fewer than two.
    ConfigError
        If a file of classes cannot be read.
    """
    names = list(names or linked)
    data_of = {linked[name]: position for position, name in enumerate(names) if name in linked}
    book = _Book(linked, labels or (), outputs, aliases or {}, {*names} - {*linked})
    words = [word for text in wanted for word in _from_file(text)]
    kept = [index for word in words for index in book.find(word)] if wanted else list(data_of)
    bare = next((index for index in kept if index not in data_of), None)
    if bare is not None:
        raise ClassesError(f"class {book.name(bare)} (output {bare}) has no images in the data")
    shown = [
        labels[index] if labels and index < len(labels) else names[data_of[index]] for index in kept
    ]
    try:
        subset = ClassSubset(kept=tuple(kept), names=tuple(shown), total=outputs)
    except ValidationError as error:
        raise ClassesError(f"--classes: {first_fault(error).partition(', found')[0]}") from error
    return subset, tuple(data_of[index] for index in kept)


def _from_file(word: str) -> tuple[str, ...]:
    if not word.startswith("@"):
        return (word,)
    lines = read_names(Path(word[1:]))
    return tuple(line for line in lines if line and not line.startswith("#"))


class _Book:
    """All words for all outputs."""

    def __init__(
        self,
        linked: Mapping[str, int],
        labels: Sequence[str],
        outputs: int,
        aliases: Mapping[str, Sequence[str]],
        strange: set[str],
    ) -> None:
        self._linked, self._strange = linked, strange
        self._outputs = outputs
        self._words: dict[str, set[int]] = {}
        for index, label in enumerate(labels):
            self._words.setdefault(label, set()).add(index)
        for name, index in linked.items():
            for word in (name, *aliases.get(name, ())):
                self._words.setdefault(word, set()).add(index)

    def name(self, index: int) -> str:
        """Return one of an output's words."""
        return next((word for word, found in self._words.items() if index in found), str(index))

    def find(self, word: str) -> list[int]:
        """Return the outputs that a word means; several only for ranges and globs."""
        if (plain := re.fullmatch(r"id:(\d{1,9})", word)) is not None:
            return self._range(word, int(plain[1]), int(plain[1]))
        if word in self._words or word.isdecimal():
            return [self._one(word)]
        if (span := re.fullmatch(r"(\d{1,9})-(\d{1,9})", word)) is not None:
            return self._range(word, int(span[1]), int(span[2]))
        if any(sign in word for sign in "*?["):
            found = self._ids(lambda known: fnmatchcase(known, word))
            found &= set(self._linked.values())
            if not found:
                raise ClassesError(f"no class fits the pattern '{word}'")
            return sorted(found)
        return [self._one(word)]

    def _range(self, word: str, first: int, last: int) -> list[int]:
        if first > last or last >= self._outputs:
            raise ClassesError(
                f"range '{word}': expected ids within 0-{self._outputs - 1}, the smaller first"
            )
        return list(range(first, last + 1))

    def _ids(self, fits: Callable[[str], bool]) -> set[int]:
        return {index for word, found in self._words.items() if fits(word) for index in found}

    def _one(self, word: str) -> int:
        meanings = set(self._words.get(word, ()))
        if re.fullmatch(r"\d{1,9}", word) and int(word) < self._outputs:
            if word in self._strange and not meanings:
                told = f"the checkpoint does not know data class '{word}'; its output {word} is"
                raise ClassesError(f"{told} {self.name(int(word))}: write id:{word} for that")
            meanings.add(int(word))
        if not meanings:  # nobody is called so; perhaps in other letters
            folded = _folded(word)
            meanings = self._ids(lambda known: _folded(known) == folded)
        if len(meanings) > 1:
            listed = " or ".join(f"id:{index} ({self.name(index)})" for index in sorted(meanings))
            raise ClassesError(f"class '{word}' is ambiguous: write {listed}")
        if not meanings:
            raise ClassesError(f"unknown class '{word}': {nearest(word, tuple(self._words))}")
        return meanings.pop()


def _folded(word: str) -> str:
    return word.casefold().replace("_", " ").replace("-", " ")

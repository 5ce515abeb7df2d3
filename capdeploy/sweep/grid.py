"""From a recipe with a ``[sweep]`` table to the recipes of its runs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from capdeploy import recipes
from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError
from capdeploy.strategies import STRATEGIES
from capdeploy.values.noun import toml_table
from capdeploy.values.recipe import Recipe
from capdeploy.values.sweep import Axis

TABLE = "sweep"
BUDGETS = (
    "ratio", "max_macs", "max_params", "max_size", "max_latency", "speedup", "max_rss", "precision",
)  # fmt: skip
MOST_RUNS = 10_000
LONGEST_NAME = 120
QUESTION = frozenset(
    {
        "classes",
        "data",
        "input_size",
        "keep_head",
        "profile",
        "runtime",
        "runtimes",
        "devices",
        "split",
        "split_group",
        "threads",
    }
)
"""Recipe keys that change what is asked for; what differs in others are alternative answers."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: several budgets from one scoring pass.

    Parameters
    ----------
    name : str
        Of its folder.
    point : Mapping[str, str]
        Axis to point.
    recipe : Recipe
        Complete.
    """

    name: str
    point: Mapping[str, str]
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """All runs of a sweep.

    Parameters
    ----------
    axes : tuple[Axis, ...]
        What varies.
    question : tuple[str, ...]
        Axes whose points ask for different things.
    cells : tuple[Cell, ...]
        Every combination, the first axis varying slowest.
    text : str
        The sweep as TOML, a valid input.
    """

    axes: tuple[Axis, ...]
    question: tuple[str, ...]
    cells: tuple[Cell, ...]
    text: str

    @property
    def networks(self) -> int:
        """How many budgets there are in all runs, baselines apart."""
        return sum(sum(budget.cuts for budget in cell.recipe.budgets()) for cell in self.cells)


def read(file: Path, environment: Mapping[str, str], settings: Sequence[str]) -> Grid:
    """Read a sweep.

    Parameters
    ----------
    file : Path
        A recipe of ``compress`` (TOML) with a table ``[sweep]``: a list is the values of a recipe
        key (``seed = [0, 1]``), a table of tables names points that each set several keys
        (``net.small = {checkpoint = "a.pt", arch = "resnet18"}``).
    environment : Mapping[str, str]
        ``CAPDEPLOY_SEED=0`` and the like; what the sweep varies wins.
    settings : Sequence[str]
        ``key=value`` from ``--set``; what the sweep varies wins.

    Returns
    -------
    Grid
        Complete recipes, all of them valid.

    Raises
    ------
    ConfigError
        If the file is none, an axis is not valid, or one of the recipes is not.
    """
    try:
        table = toml_table(file.read_bytes(), source=f"sweep {file}")
    except OSError as error:
        raise ConfigError(f"sweep {file} cannot be read: {error.strerror or error}") from error
    varied = table.pop(TABLE, None)
    if not isinstance(varied, dict) or not varied:
        raise ConfigError(
            f"sweep {file} has no table [{TABLE}]; add one with what varies, for example "
            'strategy = ["ocap", "taylor"]'
        )
    axes = {name: _points(name, value) for name, value in varied.items()}
    base = recipes.layered(environment, settings, table)
    # TOML has no word for what is left to the default.
    said = {key: value for key, value in base.items() if value is not None}
    text = tomli_w.dumps({**said, TABLE: varied})
    count = 1
    for points in axes.values():
        count *= len(points)
    if count > MOST_RUNS:
        raise ConfigError(f"sweep {file} has {count} runs, at most {MOST_RUNS} are taken")
    cells = []
    for chosen in itertools.product(*(points.items() for points in axes.values())):
        changes: dict[str, Any] = {}
        for _, keys in chosen:
            changes |= keys
        point = dict(zip(axes, (name for name, _ in chosen), strict=True))
        recipe = recipes.resolve(None, environment, settings, changes, base=table)
        STRATEGIES.load(recipe.strategy).settle(recipe.strategy_args, name=recipe.strategy)
        cells.append(Cell(_name(point), point, recipe))
    _refuse_equal(cells)
    question = tuple(
        name for name, points in axes.items()
        if any(QUESTION & keys.keys() for keys in points.values())
    )  # fmt: skip
    known = tuple(Axis(name=name, points=tuple(points)) for name, points in axes.items())
    return Grid(known, question, tuple(cells), text)


def _points(axis: str, value: Any) -> dict[str, dict[str, Any]]:
    """Read one axis: point name -> recipe keys."""
    if isinstance(value, list) and value:
        if axis in BUDGETS:
            raise ConfigError(
                f"{TABLE}.{axis}: put the list into the recipe itself, outside [{TABLE}]: all its "
                "values come from one scoring pass"
            )
        _known(axis, axis)
        named = [(_word(axis, entry), {axis: entry}) for entry in value]
        if len({name for name, _ in named}) != len(named):
            raise ConfigError(f"{TABLE}.{axis} has a value twice")
        return dict(named)
    if isinstance(value, dict) and value:
        for name, keys in value.items():
            if not isinstance(keys, dict) or not keys:
                raise ConfigError(
                    f"{TABLE}.{axis}.{name}: expected a table of recipe keys, found {keys!r:.60}"
                )
            for key in keys:
                _known(f"{axis}.{name}.{key}", key)
        return value
    raise ConfigError(
        f"{TABLE}.{axis}: expected a list of values or a table of named points, found {value!r:.60}"
    )


def _known(place: str, key: str) -> None:
    if key not in Recipe.model_fields:
        raise ConfigError(
            f"{TABLE}.{place}: unknown recipe key '{key}'; "
            f"{nearest(key, tuple(Recipe.model_fields))}"
        )


def _word(axis: str, value: Any) -> str:
    """Name a value, so that it says which key it belongs to."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "+".join(str(entry) for entry in value)
    return f"{axis}{json.dumps(value, default=str)}"


def _name(point: Mapping[str, str]) -> str:
    words = [
        re.sub(r"[^A-Za-z0-9._+-]+", "_", word).strip("._") or axis for axis, word in point.items()
    ]
    return "-".join(words)[:LONGEST_NAME]


def _refuse_equal(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        # Case must not matter: some file systems do not tell it apart.
        other = seen.setdefault(cell.name.lower(), cell)
        if other is not cell:
            raise ConfigError(
                f"two runs of the sweep would share the folder {cell.name}: {dict(other.point)} "
                f"and {dict(cell.point)}; give their points names of their own"
            )

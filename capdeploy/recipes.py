"""Merges what a run was asked to do: defaults < profile < recipe file < environment < flags."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from capdeploy import profiles
from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.noun import toml_table
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.recipe import Common, Recipe, TrainRecipe

PREFIX = "CAPDEPLOY_"
COUNTS = {"mean": 3, "std": 3, "input_size": 2}
DEVICES = ("cpu", "cuda", "tensorrt", "gpu", "npu")
LISTS = frozenset(
    {
        "max_macs",
        "max_params",
        "max_size",
        "max_latency",
        "max_rss",
        "speedup",
        "precision",
        "track",
        "augment",
        "classes",
        "ignore_keys",
        "protect",
        "ratio",
        "runtimes",
        "devices",
        "mean",
        "std",
        "input_size",
    }
)


def resolve(
    file: Path | None,
    environment: Mapping[str, str],
    settings: Sequence[str],
    flags: Mapping[str, Any],
    *,
    base: Mapping[str, Any] | None = None,
) -> Recipe:
    """Merge all layers into one recipe.

    Parameters
    ----------
    file : Path | None
        A TOML recipe.
    environment : Mapping[str, str]
        ``CAPDEPLOY_RATIO=0.5`` and the like; other variables are ignored.
    settings : Sequence[str]
        ``key=value`` from ``--set``; flags of the same key count more.
    flags : Mapping[str, Any]
        Recipe key to value; None means not given.
    base : Mapping[str, Any] | None
        A layer below all others, for the demo.

    Returns
    -------
    Recipe
        The complete recipe.

    Raises
    ------
    ConfigError
        If a key is unknown, a value is not valid, or a required one is missing.
    """
    layers = _layers(Recipe, file, environment, settings, flags, base)
    profile = profiles.load(str(layers.get("profile", "this-host")))
    below = {"align": profile.device.align, "precision": [profile.runtime.precision]}
    _require(layers, {"checkpoint": "CHECKPOINT", "data": "--data"})
    recipe = Recipe.from_plain(below | layers, source="recipe")
    # What is unknown is told before an hour is spent.
    profile_of(recipe)
    if recipe.runtime is not None:
        RUNTIMES.require(recipe.runtime)
    return recipe


def layered(
    environment: Mapping[str, str], settings: Sequence[str], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Lay environment and settings over recipe keys, without completing them."""
    return _layers(Recipe, None, environment, settings, {}, base)


def resolve_training(
    file: Path | None,
    environment: Mapping[str, str],
    settings: Sequence[str],
    flags: Mapping[str, Any],
) -> TrainRecipe:
    """Merge all layers into one recipe for training; see `resolve`."""
    layers = _layers(TrainRecipe, file, environment, settings, flags, None)
    _require(layers, {"arch": "--arch", "data": "--data"})
    return TrainRecipe.from_plain(layers, source="recipe")


def _layers(
    kind: type[Common],
    file: Path | None,
    environment: Mapping[str, str],
    settings: Sequence[str],
    flags: Mapping[str, Any],
    base: Mapping[str, Any] | None,
) -> dict[str, Any]:
    layers: dict[str, Any] = dict(base or {})
    layers |= _file(file) if file is not None else {}
    layers |= _environment(environment, kind)
    layers |= dict(_setting(text, kind) for text in settings)
    layers |= {key: value for key, value in flags.items() if value is not None}
    for key in layers:
        _known(key, kind)
    return layers


def _require(layers: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    missing = [flag for key, flag in flags.items() if key not in layers]
    if missing:
        raise ConfigError(f"{missing[0]} is missing; give it on the command line or in the recipe")


def profile_of(recipe: Recipe) -> HardwareProfile:
    """Load a recipe's profile, with the recipe's own runtimes, devices and threads laid over it."""
    given = {"runtimes": recipe.runtimes, "devices": recipe.devices, "threads": recipe.threads}
    return with_runtime(profiles.load(recipe.profile), given)


def with_runtime(profile: HardwareProfile, given: Mapping[str, Any]) -> HardwareProfile:
    """Return a profile with some of its runtime settings replaced; empty values change nothing.

    Parameters
    ----------
    profile : HardwareProfile
        The profile.
    given : Mapping[str, Any]
        Settings; what is named twice counts once.

    Returns
    -------
    HardwareProfile
        A copy.

    Raises
    ------
    ConfigError
        If a runtime or device is not known, none of the runtimes runs on a device that is named, or
        an offline run is asked for one image at a time.
    """
    changes = {key: value for key, value in given.items() if value}
    for name in changes.get("runtimes", ()):
        RUNTIMES.load(name)
    for name in changes.get("devices", ()):
        if name not in DEVICES:
            raise ConfigError(f"unknown device '{name}'; {nearest(name, DEVICES)}")
    wanted = profile.runtime.model_copy(update=changes)
    for name in changes.get("devices", ()):
        if not any(name in RUNTIMES.load(each).supports for each in wanted.runtimes):
            raise ConfigError(
                f"device {name}: none of {', '.join(wanted.runtimes)} runs on it; leave it out of "
                "--devices, or add a runtime that does to --runtimes"
            )
    if changes.get("batch") == 1 and wanted.scenario == "offline":
        raise ConfigError(
            f"an offline run takes images in batches ({wanted.images_at_once} unless it is said); "
            "leave --batch 1 away, or use --scenario single-stream"
        )
    once = {key: tuple(dict.fromkeys(getattr(wanted, key))) for key in ("runtimes", "devices")}
    return profile.model_copy(update={"runtime": wanted.model_copy(update=once)})


def to_toml(recipe: Common) -> str:
    """Write a recipe as TOML; it is a valid input. Keys without a value are left out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _file(path: Path) -> dict[str, Any]:
    try:
        return toml_table(path.read_bytes(), source=f"recipe {path}")
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}") from error


def _environment(environment: Mapping[str, str], kind: type[Common]) -> dict[str, Any]:
    found = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX):
            continue
        key = name.removeprefix(PREFIX).lower()
        # Other tools may use the prefix for their own ends (CAPDEPLOY_COMPLETE is click's).
        if key in kind.model_fields:
            found[key] = _value(key, text)
        elif key in {*Recipe.model_fields, *TrainRecipe.model_fields}:
            continue  # it is the other command's
        elif close := difflib.get_close_matches(key, list(kind.model_fields), n=1, cutoff=0.85):
            meant = f"{PREFIX}{close[0].upper()}"
            raise ConfigError(f"{name} is no recipe key; {meant} is one: rename or unset it")
    return found


def _setting(text: str, kind: type[Common]) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals:
        raise ConfigError(f"--set {text}: expected key=value")
    _known(key, kind)
    return key, _value(key, value.strip())


def _known(key: str, kind: type[Common]) -> None:
    if key not in kind.model_fields:
        raise ConfigError(f"unknown recipe key '{key}'; {nearest(key, tuple(kind.model_fields))}")


def _value(key: str, text: str) -> Any:
    """Read a value: JSON if it is some, else words; lists may be written a,b,c."""
    value = _json(text)
    if key in LISTS and not isinstance(value, list):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if key not in {"ratio", *COUNTS}:
            return parts
        # One number may stand for all, as on the command line.
        numbers = [_json(part) for part in parts]
        return numbers * COUNTS[key] if key in COUNTS and len(numbers) == 1 else numbers
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, too long a number, or nested too deeply
        return text

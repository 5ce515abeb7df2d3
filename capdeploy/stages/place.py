"""Where latency counts: a runtime of graphs, a device, and threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from capdeploy import recipes
from capdeploy.bench import environment
from capdeploy.errors import ConfigError, MissingDeviceError
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES
from capdeploy.stages import bits
from capdeploy.values.budget import Budget
from capdeploy.values.recipe import Recipe


class Where(TypedDict):
    """A place without its precision, as arguments."""

    runtime: str
    device: str
    threads: int


@dataclass(frozen=True)
class Place:
    """Where latency counts.

    Parameters
    ----------
    runtime : str
        A runtime of graphs.
    device : str
        One of its devices.
    threads : int
        Of the runtime.
    precision : str
        In which the network is shipped.
    emulated : bool
        Whether this machine, where it is measured, is not the profile's device.
    """

    runtime: str
    device: str
    threads: int
    precision: str = "fp32"
    emulated: bool = False

    @property
    def where(self) -> Where:
        """Runtime, device and threads."""
        return {"runtime": self.runtime, "device": self.device, "threads": self.threads}


def require(recipe: Recipe) -> None:
    """Stop before any work if something is to be measured where nothing can be."""
    if any(budget.of_latency or budget.measured for budget in recipe.budgets()):
        place = place_of(recipe)
        if place.device not in RUNTIMES.load(place.runtime).devices():
            raise MissingDeviceError(f"no such device: {place.runtime} sees no {place.device} here")
        made = {("fp32", place.runtime), *bits.wanted(recipe)}
        if (place.precision, place.runtime) not in made:
            raise ConfigError(
                f"a latency would count in {place.precision} in {place.runtime}, and no such graph "
                f"is made; add {place.runtime} to --runtimes, or name fp32 first in --precision"
            )


def place_of(recipe: Recipe) -> Place:
    """Say where latency counts for a recipe.

    Parameters
    ----------
    recipe : Recipe
        Names a runtime, or a profile that does, and precisions.

    Returns
    -------
    Place
        The recipe's runtime or the first of the profile's that runs ONNX graphs, on its first
        device that has a use for the first precision.

    Raises
    ------
    ConfigError
        If that runtime is unknown or runs no graphs, or the profile has none that does.
    """
    profile = recipes.profile_of(recipe)
    bits = recipe.precision[0]
    wanted = (recipe.runtime,) if recipe.runtime is not None else profile.runtime.runtimes
    for name in wanted:
        shelf = RUNTIMES.load(name)
        devices = [
            device for device in profile.runtime.devices
            if device in shelf.supports and (bits, device) not in shelf.pointless
        ]  # fmt: skip
        if not shelf.needs_bundle and devices:
            return Place(name, devices[0], profile.runtime.threads, bits)
    raise ConfigError(
        f"nothing can be measured in {', '.join(wanted)} on "
        f"{', '.join(profile.runtime.devices)} in {bits}: give a --runtime that runs "
        "ONNX graphs there (onnxruntime, openvino), or name fp32 first in --precision"
    )


def to_measure(recipe: Recipe, budget: Budget, say: Say) -> Place:
    """Say where a budget is measured, and hear of it if that is not the device.

    Parameters
    ----------
    recipe : Recipe
        Names a runtime and a profile.
    budget : Budget
        What is to be met.
    say : Say
        Hears that milliseconds or MiB of this machine say little of another.

    Returns
    -------
    Place
        The place of `place_of`.

    Raises
    ------
    ConfigError
        As `place_of`.
    """
    profile, limit = recipes.profile_of(recipe), budget.limit
    emulated = not environment.is_device(profile, environment.read())
    if emulated and limit is not None and not limit.share:
        say.note(
            f"{limit} is measured on this machine, which is not the profile's device "
            f"({profile.id}); a share carries over better, such as --speedup 2x or --max-rss 70%"
        )
    return replace(place_of(recipe), emulated=emulated)

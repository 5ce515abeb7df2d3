"""How filters are judged. One file per strategy; the door imports nothing heavy.

A strategy is two pure functions and a paper. The engine (`capdeploy.score`) feeds the first with
what it asked to watch, one batch at a time, and keeps running reductions of what it returns; the
second turns those into one score per filter. So memory does not grow with the images. A strategy
that judges whole coupled groups at once gets one function instead (`Coupled`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from capdeploy.catalog import Catalog, nearest
from capdeploy.errors import ConfigError

if TYPE_CHECKING:
    import torch

Value = float | str


class Watch(enum.Enum):
    """What a strategy wants to see of a layer."""

    WEIGHTS = "weights"
    """The layer's weights with its batch normalisation folded in, (1, C, F, 1). No images."""
    NORM_SCALES = "batch-norm scales"
    """The scale of the layer's batch normalisation, (1, C, 1, 1). No images."""
    ACTIVATIONS = "activations"
    """The layer's response, (N, C, H, W): after its batch normalisation if it has one."""
    GRADIENTS = "gradients"
    """Gradient of each image's own loss by the response, (N, C, H, W)."""
    ACTIVATION_GRADIENTS = "activation times gradient"
    """Response times the gradient of each image's own loss, (N, C, H, W)."""
    RELEVANCE = "relevance"
    """Relevance of the response for the image's own class, (N, C, H, W); see observe.relevance."""
    ABLATION = "ablation"
    """Rise of each image's loss when the filter leaves a random coalition, (N, C, 1, 1)."""
    COUPLED_WEIGHTS = "coupled weights"
    """All weights that are coupled to each channel of a group, (1, C, F, 1). No images."""
    CONSUMERS = "consumers"
    """What reads a group: moments of its inputs, its weights, and what its answers matter."""


@dataclass(frozen=True)
class Option:
    """Something that a user may set with ``--strategy-arg name=value``.

    Parameters
    ----------
    default : float | str
        Its value if nothing is said; also fixes its kind.
    doc : str
        One line.
    choices : tuple[str, ...]
        Allowed words; empty for numbers.
    least, most : float
        Bounds of a number, both allowed.
    """

    default: Value
    doc: str
    choices: tuple[str, ...] = ()
    least: float = float("-inf")
    most: float = float("inf")


@dataclass(frozen=True)
class Seen:
    """One batch of what a strategy watches.

    Parameters
    ----------
    values : torch.Tensor
        (N, C, H, W) for a convolution, (N, C, 1, 1) for a linear layer, floating point;
        for ``Watch.WEIGHTS`` (1, C, F, 1) with the F weights of each filter.
    generator : torch.Generator
        Seeded from the run's seed and the layer's name; the only allowed source of chance.
    options : Mapping[str, float | str]
        Every option of the strategy.
    """

    values: torch.Tensor
    generator: torch.Generator
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What remains of all images.

    Parameters
    ----------
    mean : torch.Tensor
        (C, ...) float64, mean over images of the per-image statistic.
    maximum : torch.Tensor
        (C, ...) float64, largest per-image statistic.
    by_class : torch.Tensor
        (K, C, ...) float64, mean over the images of each kept class.
    images : int
        How many images were seen.
    options : Mapping[str, float | str]
        Every option of the strategy.
    """

    mean: torch.Tensor
    maximum: torch.Tensor
    by_class: torch.Tensor
    images: int
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Consumer:
    """A layer that reads the channels of a group.

    Parameters
    ----------
    covariance : torch.Tensor
        (F, F) float64, of the layer's inputs; F = input channels x kernel elements.
    weight : torch.Tensor
        (F, O) float64.
    importance : torch.Tensor
        (O, O) float64, second moment of the gradient of what matters by the layer's outputs.
    columns : torch.Tensor
        (n, B) int64, the B inputs that belong to each of the n channels that the layer reads.
    place : torch.Tensor
        (C,) int64, row in `columns` of each of the group's C channels; -1 where it is not read.
    """

    covariance: torch.Tensor
    weight: torch.Tensor
    importance: torch.Tensor
    columns: torch.Tensor
    place: torch.Tensor


@dataclass(frozen=True)
class Coupled:
    """All that is known about one group of coupled channels.

    Parameters
    ----------
    weights : torch.Tensor
        (1, C, F, 1) for ``Watch.COUPLED_WEIGHTS``, else empty.
    consumers : tuple[Consumer, ...]
        For ``Watch.CONSUMERS``, else empty.
    options : Mapping[str, float | str]
        Every option of the strategy.
    """

    weights: torch.Tensor
    consumers: tuple[Consumer, ...]
    options: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """A way to judge filters.

    Parameters
    ----------
    watch : Watch
        What the first function receives.
    class_aware : bool
        Whether the score depends on the chosen classes.
    summary : str
        One line for ``capdeploy list``.
    paper : str
        Where it comes from.
    per_image : Callable[[Seen], torch.Tensor] | None
        From one batch to one statistic per image and filter, (N, C) or (N, C, ...).
    per_filter : Callable[[Summary], torch.Tensor] | None
        From all images to one score per filter, (C,); higher = keep.
    per_channel : Callable[[Coupled], torch.Tensor] | None
        Instead of the two above: one score per channel of a whole group, (C,); higher = keep.
    across : str
        How the scores of coupled layers become one: ``mean`` (each layer brought to a mean
        magnitude of 1 first) or ``max``.
    percentile : bool
        Whether a score is a rank percentile within its layer, as OCAP's union is.
    cumulative : bool
        Whether a score is the harm done by the time the channel goes, in a unit that all groups
        share; ``--allocation global`` then takes it as it is.
    options : Mapping[str, Option]
        What a user may set.
    """

    watch: Watch
    class_aware: bool
    summary: str
    paper: str
    per_image: Callable[[Seen], torch.Tensor] | None = None
    per_filter: Callable[[Summary], torch.Tensor] | None = None
    per_channel: Callable[[Coupled], torch.Tensor] | None = None
    across: Literal["mean", "max"] = "mean"
    percentile: bool = False
    cumulative: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)

    def settle(self, given: Mapping[str, object], *, name: str) -> dict[str, Value]:
        """Lay what a user gave over the defaults.

        Parameters
        ----------
        given : Mapping[str, object]
            Option name to value.
        name : str
            The strategy's name, for messages.

        Returns
        -------
        dict[str, Value]
            Every option.

        Raises
        ------
        ConfigError
            If there is no such option or its value is not allowed.
        """
        settled = {key: option.default for key, option in self.options.items()}
        for key, value in given.items():
            if key not in self.options:
                has = nearest(key, tuple(self.options)) if self.options else "it takes none"
                raise ConfigError(f"strategy {name} has no option '{key}'; {has}")
            settled[key] = _allowed(name, key, self.options[key], value)
        return settled


def _allowed(name: str, key: str, option: Option, value: object) -> Value:
    if option.choices:
        if value not in option.choices:
            raise ConfigError(
                f"strategy {name}: {key} is '{value}', expected {' or '.join(option.choices)}"
            )
        return str(value)
    number = float(value) if isinstance(value, (int, float)) else None
    if number is None or not option.least <= number <= option.most:
        raise ConfigError(
            f"strategy {name}: {key} is '{value}', expected a number from {option.least:g} to "
            f"{option.most:g}"
        )
    return number


STRATEGIES: Catalog[Strategy] = Catalog("capdeploy.strategies", "STRATEGY", "strategy")

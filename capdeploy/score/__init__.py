"""Let one strategy judge every filter."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from capdeploy.catalog import listed
from capdeploy.errors import PlanError
from capdeploy.progress import Quiet, Say
from capdeploy.score import coupled, layers
from capdeploy.score.judged import Judged
from capdeploy.strategies import STRATEGIES, Strategy
from capdeploy.values.noun import first_fault
from capdeploy.values.scores import FilterScores, LayerScores

__all__ = ["Judged", "judge", "run"]


def run(
    name: str, judged: Judged, given: Mapping[str, object] | None = None, say: Say | None = None
) -> FilterScores:
    """Score every filter of a network with a strategy of the shelf.

    Parameters
    ----------
    name : str
        The strategy.
    judged : Judged
        What is scored, and on what.
    given : Mapping[str, object] | None
        Options of the strategy.
    say : Say | None
        Hears what it costs, and what could not be done as asked.

    Returns
    -------
    FilterScores
        One vector per filter-making layer, higher = keep.

    Raises
    ------
    ConfigError
        If there is no such strategy or option.
    PlanError
        If a score is not finite.
    """
    return judge(name, STRATEGIES.load(name), judged, given, say)


def judge(
    name: str,
    strategy: Strategy,
    judged: Judged,
    given: Mapping[str, object] | None = None,
    say: Say | None = None,
) -> FilterScores:
    """Score every filter with any strategy, of the shelf or not; see `run`."""
    options = strategy.settle(given or {}, name=name)
    say = say or Quiet()
    if strategy.per_channel is not None:
        found, images = coupled.score(strategy, judged, options)
    else:
        found, images = layers.score(strategy, judged, options, say)
    order = [layer for layer in judged.model.trace.filters if layer in found]
    _tell_of_ties(name, {layer: found[layer] for layer in order}, say)
    if not order:
        raise PlanError(f"strategy {name} has nothing to score in this network; try another one")
    try:
        return FilterScores(
            strategy=name,
            options=options,
            layers=tuple(
                LayerScores(layer=key, values=tuple(found[key].tolist())) for key in order
            ),
            images=images,
            across=strategy.across,
            percentile=strategy.percentile and options.get("aggregation", "union") == "union",
            cumulative=strategy.cumulative and options.get("metric", "answers") == "answers",
            seed=judged.seed,
        )
    except ValueError as error:
        raise _refusal(name, error) from error


def _tell_of_ties(name: str, found: Mapping[str, torch.Tensor], say: Say) -> None:
    """Say where a strategy tells no filter from the others: position decides there."""
    alike = [
        layer for layer, score in found.items()
        if len(score) > 1 and bool((score == score[0]).all())
    ]  # fmt: skip
    if alike:
        say.note(
            f"{name} scores all filters of a layer alike in {listed(alike)}: unless layers "
            "coupled to them differ, the first filters stay; try another strategy"
        )


def _refusal(name: str, error: ValueError) -> Exception:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return PlanError(f"strategy {name}: {first_fault(error)}")
    return error

"""The street up to the knife: everything that a dry run shows."""

from __future__ import annotations

from dataclasses import dataclass

from capdeploy.model import Model
from capdeploy.prune.ground import Ground
from capdeploy.samples import Samples
from capdeploy.values.plan import PruningPlan
from capdeploy.values.sensitivity import Curve


@dataclass(frozen=True)
class Planned:
    """Networks, images and plans.

    Parameters
    ----------
    full : Model
        The network as it came.
    narrow : Model
        The same with its head cut.
    samples : Samples
        Where to take images from.
    plans : tuple[PruningPlan, ...]
        The one that cuts the head alone first, then one for each budget.
    scored_images : int
        How many images the filters were scored on.
    sensitivity : tuple[Curve, ...]
        Curves that the plans were drawn by, if any.
    ground : Ground | None
        What the plans were drawn on; None if an earlier run drew them.
    out_of_reach : tuple[str, ...]
        Limits that no network meets, and why; there is no plan for them.
    """

    full: Model
    narrow: Model
    samples: Samples
    plans: tuple[PruningPlan, ...]
    scored_images: int
    sensitivity: tuple[Curve, ...] = ()
    ground: Ground | None = None
    out_of_reach: tuple[str, ...] = ()

"""All that a plan is drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from capdeploy.prune.ledger import Meter
from capdeploy.values.cost import Cost, NetworkGeometry
from capdeploy.values.group import Group
from capdeploy.values.latency import LatencyTable
from capdeploy.values.plan import LayerCut
from capdeploy.values.scores import FilterScores


@dataclass(frozen=True)
class Ground:
    """All that a plan is drawn on.

    Parameters
    ----------
    scores : FilterScores
        Every filter's score.
    groups : Sequence[Group]
        Coupled groups of the head-cut network.
    geometry : NetworkGeometry
        Of the head-cut network.
    head : LayerCut | None
        The head's own cut, with class ids in output order; None if the head stays.
    full : Cost
        Cost of the network before the head was cut.
    curves : Mapping[str, tuple[float, ...]]
        Measured harm of losing n channels, n = 0..width, by group; for the allocation
        ``sensitivity``.
    whole : Mapping[str, int]
        Width of each group before any step, if this is a later one; ratios and floors count from
        there.
    latency : LatencyTable | None
        The layers' times; budgets of latency and the allocation ``latency`` need them.
    """

    scores: FilterScores
    groups: Sequence[Group]
    geometry: NetworkGeometry
    head: LayerCut | None
    full: Cost
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyTable | None = None

    def meter(self, quantity: str) -> Meter:
        """Count a quantity of this network."""
        return Meter(quantity, self.latency if quantity == "latency" else None)

    def width_of(self, group: Group) -> int:
        """Return what a group had before any step."""
        return self.whole.get(group.name, group.width)

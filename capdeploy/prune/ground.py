"""All that a plan is drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from capdeploy.prune.ledger import Meter, Site
from capdeploy.values.cost import Cost, NetworkGeometry
from capdeploy.values.group import Block, Group
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
        Harm of losing n channels, n = 0..width, by group, where an allocation goes by that instead
        of by the scores: measured (``sensitivity``) or estimated (``repair``, ``latency``).
    whole : Mapping[str, int]
        Width of each group before any step, if this is a later one; ratios and floors count from
        there.
    gone : int
        Channels of groups that went with blocks in earlier steps.
    held : Mapping[str, int]
        Channels that groups keep at most, because measuring showed that more cost too much.
    latency : LatencyTable | None
        The layers' times; budgets of latency and the allocation ``latency`` need them.
    blocks : Sequence[Block]
        Residual blocks of the head-cut network.
    besides : float
        Bytes that an exported graph has besides its weights and its layers' nodes; see `Meter`.
    """

    scores: FilterScores
    groups: Sequence[Group]
    geometry: NetworkGeometry
    head: LayerCut | None
    full: Cost
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)
    gone: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyTable | None = None
    blocks: Sequence[Block] = ()
    besides: float = 0.0

    def meter(self, quantity: str) -> Meter:
        """Count a quantity of this network."""
        table = self.latency if quantity == "latency" else None
        return Meter(quantity, table, self.besides)

    def width_of(self, group: Group) -> int:
        """Return what a group had before any step."""
        return self.whole.get(group.name, group.width)

    def sites(self, free: Sequence[Group]) -> tuple[Site, ...]:
        """List the blocks that may go whole: every group that lies within one may be cut.

        Parameters
        ----------
        free : Sequence[Group]
            Groups that may be cut.

        Returns
        -------
        tuple[Site, ...]
            Blocks with such groups; what a block without any is worth, no score says.
        """
        names = {group.name for group in free}
        found = []
        for block in self.blocks:
            layers = set(block.layers)
            inner = [
                group.name for group in self.groups
                if {member.layer for member in group.members} <= layers
            ]  # fmt: skip
            if inner and names.issuperset(inner):
                found.append(Site(block, tuple(inner)))
        return tuple(found)

    def removed(self, keep: Mapping[str, int]) -> tuple[Block, ...]:
        """List the blocks that are gone when groups keep so many channels."""
        return tuple(
            site.block for site in self.sites(self.groups)
            if not any(keep[name] for name in site.inner)
        )  # fmt: skip

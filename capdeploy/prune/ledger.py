"""What a network costs at the present widths of its groups, in whatever a budget counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capdeploy.values.cost import LayerGeometry, NetworkGeometry
from capdeploy.values.group import Block, Group
from capdeploy.values.latency import LatencyTable

NODE_BYTES = 480.0
"""What an ONNX graph spends on a layer besides its weights (names, attributes, shapes), roughly."""

FLOAT_BYTES = 4.0
WEIGHTY = frozenset({"size", "rss"})


@dataclass(frozen=True)
class Meter:
    """Counts one quantity of a network.

    Parameters
    ----------
    quantity : str
        ``macs``, ``parameters``, ``size`` (bytes), ``rss`` (by the bytes of the weights, the part
        of it that a plan can change), ``latency`` (ms, estimated from the layers' times) or
        ``channels`` (of the groups).
    table : LatencyTable | None
        The layers' times; only ``latency`` needs them.
    besides : float
        Bytes that a file has besides its weights and `NODE_BYTES` for each layer.
    """

    quantity: str
    table: LatencyTable | None = None
    besides: float = 0.0

    @property
    def grain(self) -> int:
        """Channels that a group may lose before anything is saved; counts fall with each."""
        return self.table.grain if self.table is not None else 1

    def whole(
        self, geometry: NetworkGeometry, widths: Mapping[str, tuple[int, int]] | None = None
    ) -> float:
        """Count for a network, some layers at other widths; nothing for ``channels`` of groups."""
        if self.quantity == "channels":
            return 0.0
        widths = widths or {}
        weighty = self.quantity in WEIGHTY
        fixed = (self.besides if weighty else 0.0) + self.loose(geometry.other_parameters)
        return fixed + sum(
            self.layer(each, *widths.get(each.layer, (each.out_channels, each.in_channels)))
            for each in geometry.layers
        )

    def layer(self, layer: LayerGeometry, out: float, into: float) -> float:
        """Count for one layer at some widths."""
        if self.quantity == "latency":
            return 0.0 if self.table is None else self.table.of(layer.layer, out, into)
        made, read = round(out), round(out if layer.kind == "depthwise" else into)
        if self.quantity in WEIGHTY:
            nodes = 0.0 if layer.kind == "norm" else NODE_BYTES
            return FLOAT_BYTES * layer.values_in_file(made, read) + nodes
        cost = layer.cost(made, read)
        return float(cost.macs if self.quantity == "macs" else cost.parameters)

    def loose(self, parameters: int) -> float:
        """Count parameters that no layer of a geometry has."""
        if self.quantity in WEIGHTY:
            return FLOAT_BYTES * parameters
        return float(parameters) if self.quantity == "parameters" else 0.0


@dataclass(frozen=True)
class Site:
    """A residual block that may be removed whole.

    Parameters
    ----------
    block : Block
        The block.
    inner : tuple[str, ...]
        Groups of which every layer lies in it; they go with it.
    """

    block: Block
    inner: tuple[str, ...]

    @property
    def name(self) -> str:
        """The block's name; no group has it, for groups are named after layers."""
        return self.block.name


class Ledger:
    """What the network costs at the groups' present widths; only what changes is counted anew.

    Parameters
    ----------
    geometry : NetworkGeometry
        The whole network.
    groups : Sequence[Group]
        Its groups that may shrink.
    meter : Meter
        What is counted.
    sites : Sequence[Site]
        Blocks that may go; they are narrowed to nothing by their name.
    gone : Sequence[Site]
        Blocks that have gone already.
    """

    def __init__(
        self,
        geometry: NetworkGeometry,
        groups: Sequence[Group],
        meter: Meter,
        sites: Sequence[Site] = (),
        gone: Sequence[Site] = (),
    ) -> None:
        self._meter = meter
        self._layers = {layer.layer: layer for layer in geometry.layers}
        self._widths = {
            name: [float(layer.out_channels), float(layer.in_channels)]
            for name, layer in self._layers.items()
        }
        self._touch: dict[str, dict[str, list[float]]] = {}
        for group in groups:
            touched = self._touch.setdefault(group.name, {})
            for member in group.members:
                each = sum(map(len, member.positions)) / group.width
                side = 0 if member.side == "out" else 1
                touched.setdefault(member.layer, [0.0, 0.0])[side] += each
        self._sites = {site.name: site for site in (*sites, *gone)}
        self.keep = {group.name: group.width for group in groups}
        self._unit = {group.name: group.unit for group in groups}
        if meter.quantity == "channels":
            self.left = float(sum(self._unit[name] * keep for name, keep in self.keep.items()))
        else:
            self.left = meter.whole(geometry)
        for site in gone:
            self.take(site.name, 0)

    @property
    def grain(self) -> int:
        """Channels that a group may lose before anything is saved."""
        return self._meter.grain

    def touched(self, name: str) -> Iterator[str]:
        """Name the layers whose cost depends on a group, or that go with a block."""
        if name in self._sites:
            return iter(self._sites[name].block.layers)
        return iter(self._touch[name])

    def saving(self, name: str, keep: int) -> float:
        """Say how much narrowing a group to `keep` channels, or losing a block, would save now."""
        if name in self._sites:
            return self._saved_by_removing(self._sites[name])
        fewer = self.keep[name] - keep
        if self._meter.quantity == "channels":
            return float(fewer * self._unit[name])
        saved = 0.0
        for layer, (out, into) in self._touch[name].items():
            now_out, now_in = self._widths[layer]
            shape = self._layers.get(layer)
            if shape is not None:
                saved += self._meter.layer(shape, now_out, now_in)
                saved -= self._meter.layer(shape, now_out - fewer * out, now_in - fewer * into)
        return saved

    def _saved_by_removing(self, site: Site) -> float:
        if self._meter.quantity == "channels":
            return float(sum(self._unit[name] * self.keep[name] for name in site.inner))
        layers = [name for name in site.block.layers if name in self._layers]
        others = self._meter.loose(site.block.other_parameters)
        return others + sum(
            self._meter.layer(self._layers[name], *self._widths[name]) for name in layers
        )

    def take(self, name: str, keep: int) -> None:
        """Narrow a group, or remove a block."""
        self.left -= self.saving(name, keep)
        if name in self._sites:
            site = self._sites[name]
            for layer in site.block.layers:
                self._layers.pop(layer, None)
            self.keep.update(dict.fromkeys(site.inner, 0))
            return
        fewer = self.keep[name] - keep
        for layer, (out, into) in self._touch[name].items():
            self._widths[layer][0] -= fewer * out
            self._widths[layer][1] -= fewer * into
        self.keep[name] = keep

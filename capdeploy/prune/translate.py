"""From what groups keep to what their layers keep, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capdeploy.values.cost import NetworkGeometry
from capdeploy.values.group import Group
from capdeploy.values.plan import GroupCut, LayerCut


def layer_cuts(
    groups: Sequence[Group],
    cuts: Sequence[GroupCut],
    geometry: NetworkGeometry,
    head: LayerCut | None,
) -> tuple[LayerCut, ...]:
    """Translate what groups keep into what their layers keep.

    Parameters
    ----------
    groups : Sequence[Group]
        The groups.
    cuts : Sequence[GroupCut]
        What each keeps, in the same order.
    geometry : NetworkGeometry
        Of the network.
    head : LayerCut | None
        The head's own cut.

    Returns
    -------
    tuple[LayerCut, ...]
        Layers that lose something.
    """
    removed: dict[str, dict[str, set[int]]] = {}
    for group, cut in zip(groups, cuts, strict=True):
        gone = set(range(cut.width)) - set(cut.kept)
        for member in group.members if gone else ():
            sides = removed.setdefault(member.layer, {"out": set(), "in": set()})
            sides[member.side].update(
                position for channel in gone for position in member.positions[channel]
            )
    result = []
    for layer in geometry.layers:
        sides = removed.get(layer.layer, {"out": set(), "in": set()})
        kept_out = _kept(layer.out_channels, sides["out"])
        kept_in = _kept(layer.in_channels, sides["in"])
        if head is not None and layer.layer == head.layer:
            kept_out = head.kept_out
        if kept_out is not None or kept_in is not None:
            result.append(LayerCut(layer=layer.layer, kept_out=kept_out, kept_in=kept_in))
    return tuple(result)


def _kept(width: int, gone: set[int]) -> tuple[int, ...] | None:
    return tuple(index for index in range(width) if index not in gone) if gone else None


def widths(layers: Sequence[LayerCut], geometry: NetworkGeometry) -> dict[str, tuple[int, int]]:
    """Say how wide each layer that loses something is then: (outputs, inputs)."""
    shapes = {layer.layer: layer for layer in geometry.layers}
    widths = {}
    for cut in layers:
        shape = shapes[cut.layer]
        out = shape.out_channels if cut.kept_out is None else len(cut.kept_out)
        into = shape.in_channels if cut.kept_in is None else len(cut.kept_in)
        widths[cut.layer] = (out, out if shape.kind == "depthwise" else into)
    return widths


def costed(
    group: Group,
    cut: GroupCut,
    geometry: NetworkGeometry,
    remaining: NetworkGeometry,
    widths: Mapping[str, tuple[int, int]],
) -> GroupCut:
    """Note what the layers that make a group cost before and after, without removed blocks."""
    makers = {member.layer for member in group.members if member.side == "out"}
    before, after = (
        sum(
            layer.cost(*seen.get(layer.layer, (layer.out_channels, layer.in_channels))).macs
            for layer in layers.layers if layer.layer in makers
        )
        for layers, seen in ((geometry, {}), (remaining, widths))
    )  # fmt: skip
    return cut.model_copy(update={"macs": before, "macs_left": after})

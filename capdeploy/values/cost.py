"""What a network costs: parameters, multiply-accumulates (MACs) and filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import Field

from capdeploy.values.group import Block
from capdeploy.values.noun import Noun


class Cost(Noun):
    """Counts for one image. A MAC is one multiply-accumulate; 1 MAC = 2 FLOPs."""

    parameters: int = Field(ge=0)
    macs: int = Field(ge=0, description="of convolutions and linear layers, one image")
    filters: int = Field(ge=0, description="output channels of convolutions and linear layers")


class LayerGeometry(Noun):
    """All that is needed to cost a layer at any width."""

    layer: str
    kind: Literal["conv", "depthwise", "linear", "norm"]
    out_channels: int = Field(gt=0)
    in_channels: int = Field(gt=0)
    groups: int = Field(default=1, gt=0)
    kernel: int = Field(default=1, gt=0, description="elements of one kernel, kh*kw")
    positions: int = Field(default=0, ge=0, description="output positions of all calls, one image")
    per_channel: int = Field(default=0, ge=0, description="bias or affine values per channel")
    stored: int = Field(
        default=0, ge=0, description="the same in an exported graph, where most norms are folded"
    )

    def cost(self, out_channels: int, in_channels: int) -> Cost:
        """Cost the layer at given widths.

        Parameters
        ----------
        out_channels : int
            Output channels that remain.
        in_channels : int
            Input channels that remain.

        Returns
        -------
        Cost
            Parameters, MACs and filters of this layer alone.

        Examples
        --------
        >>> conv = LayerGeometry(layer="c", kind="conv", out_channels=8, in_channels=3,
        ...                      kernel=9, positions=4, per_channel=1)
        >>> conv.cost(4, 3)
        Cost(parameters=112, macs=432, filters=4)
        """
        own = out_channels * self.per_channel
        if self.kind == "norm":
            return Cost(parameters=own, macs=0, filters=0)
        # A grouped convolution loses whole groups, so what one filter reads stays the same.
        read = in_channels if self.groups == 1 else self.in_channels // self.groups
        pairs = out_channels * (1 if self.kind == "depthwise" else read) * self.kernel
        return Cost(parameters=pairs + own, macs=pairs * self.positions, filters=out_channels)

    def values_in_file(self, out_channels: int, in_channels: int) -> int:
        """Count what an exported graph stores of the layer at the widths of `cost`.

        That is its weights, and what stands there for bias and batch normalisation.
        """
        weights = self.cost(out_channels, in_channels).parameters
        return weights + out_channels * (self.stored - self.per_channel)


class NetworkGeometry(Noun):
    """Every layer that can be narrowed, and the parameters of everything else."""

    layers: tuple[LayerGeometry, ...]
    other_parameters: int = Field(ge=0)

    def without(self, blocks: Collection[Block]) -> NetworkGeometry:
        """Leave residual blocks out, with all their parameters."""
        gone = {layer for block in blocks for layer in block.layers}
        others = sum(block.other_parameters for block in blocks)
        return NetworkGeometry(
            layers=tuple(layer for layer in self.layers if layer.layer not in gone),
            other_parameters=self.other_parameters - others,
        )

    def cost(self, widths: Mapping[str, tuple[int, int]] | None = None) -> Cost:
        """Cost the network, with some layers at other widths.

        Parameters
        ----------
        widths : Mapping[str, tuple[int, int]] | None
            Layer name to (output, input) channels that remain; absent layers are whole.

        Returns
        -------
        Cost
            Of the whole network, one image.
        """
        widths = widths or {}
        costs = [
            layer.cost(*widths.get(layer.layer, (layer.out_channels, layer.in_channels)))
            for layer in self.layers
        ]
        return Cost(
            parameters=self.other_parameters + sum(cost.parameters for cost in costs),
            macs=sum(cost.macs for cost in costs),
            filters=sum(cost.filters for cost in costs),
        )

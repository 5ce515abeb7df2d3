"""What a network costs, layer by layer, from one forward pass."""

from __future__ import annotations

from torch import nn

from capdeploy.observe.trace import Trace
from capdeploy.rebuild import NORMS, is_depthwise
from capdeploy.values.cost import LayerGeometry, NetworkGeometry


def geometry(network: nn.Module, seen: Trace) -> NetworkGeometry:
    """Describe every layer so that the network can be costed at any width.

    Parameters
    ----------
    network : nn.Module
        The network that was traced.
    seen : Trace
        Its trace at the input size of interest.

    Returns
    -------
    NetworkGeometry
        Convolutions, linear layers and batch normalisations one by one; the parameters of all
        other layers, and of layers that did not run, as one number.
    """
    makers = {norm: network.get_submodule(maker) for maker, norm in seen.norm_of.items()}
    layers = tuple(
        _layer(name, network.get_submodule(name), seen, makers.get(name))
        for name in (*seen.filters, *seen.norms)
    )
    total = sum(parameter.numel() for parameter in network.parameters())
    known = NetworkGeometry(layers=layers, other_parameters=0).cost().parameters
    # Layers that share their weights count each for itself, as in the files of a bundle.
    return NetworkGeometry(layers=layers, other_parameters=max(0, total - known))


def _layer(name: str, layer: nn.Module, seen: Trace, maker: nn.Module | None) -> LayerGeometry:
    bias = 0 if getattr(layer, "bias", None) is None else 1
    if isinstance(layer, nn.Conv2d):
        return LayerGeometry(
            layer=name,
            kind="depthwise" if is_depthwise(layer) else "conv",
            out_channels=layer.out_channels,
            in_channels=layer.in_channels,
            groups=layer.groups,
            kernel=layer.kernel_size[0] * layer.kernel_size[1],
            positions=seen.positions[name],
            per_channel=bias,
            stored=bias,
        )
    if isinstance(layer, nn.Linear):
        return LayerGeometry(
            layer=name,
            kind="linear",
            out_channels=layer.out_features,
            in_channels=layer.in_features,
            positions=seen.positions[name],
            per_channel=bias,
            stored=bias,
        )
    if isinstance(layer, NORMS):
        return LayerGeometry(
            layer=name,
            kind="norm",
            out_channels=layer.num_features,
            in_channels=layer.num_features,
            per_channel=2 if layer.affine else 0,
            stored=_left_of_norm(maker),
        )
    raise TypeError(type(layer).__name__)


def _left_of_norm(maker: nn.Module | None) -> int:
    """Count the values per channel of a norm in an exported graph.

    Behind a layer that it is folded into, it is that layer's bias; elsewhere it has scale, shift,
    mean and variance.
    """
    if maker is None:
        return 4
    return 1 if getattr(maker, "bias", None) is None else 0

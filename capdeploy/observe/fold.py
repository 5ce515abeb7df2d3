"""Batch normalisation folded into the layer in front of it, on a copy."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from capdeploy.observe.taps import evaluating
from capdeploy.observe.trace import Trace

TOLERANCE = 1e-3
"""By how much folding may change the answers, a share of the largest."""


def folded(layer: nn.Module, norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a layer's weight and bias with its batch normalisation folded in.

    Parameters
    ----------
    layer : nn.Module
        Convolution or linear layer.
    norm : nn.Module | None
        The batch normalisation that takes its output, if there is one with running statistics.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor | None]
        Weight in the layer's shape and bias (C,), detached; those of the layer itself if there is
        nothing to fold.
    """
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if norm is None or mean is None or variance is None:
        return weight.detach(), None if bias is None else bias.detach()
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    scale, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = torch.ones_like(mean) if scale is None else scale
    shift = torch.zeros_like(mean) if shift is None else shift
    fused, offset = fuse(weight, bias, mean, variance, norm.eps, scale, shift)  # type: ignore[arg-type]
    return fused.detach(), offset.detach()


def fold(network: nn.Module, seen: Trace, images: torch.Tensor) -> nn.Module:
    """Return a copy in which every batch normalisation that follows a layer is folded into it.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    seen : Trace
        Its trace.
    images : torch.Tensor
        (N, 3, H, W) float32, a few: folding is believed only if they get the same answers.

    Returns
    -------
    nn.Module
        In evaluation mode; it answers as the original up to rounding. Folded normalisations are
        identities; those in front of a layer remain. Where folding changes the answers (a layer's
        output is read by others than its normalisation) the copy is as the original.
    """
    copied = unproven(network, seen)
    with torch.no_grad(), evaluating(network):
        same = alike(copied(images), network(images))
    return copied if same else copy.deepcopy(network).eval()


def alike(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Tell whether answers are those of the network itself, up to rounding."""
    return float((found - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


def unproven(network: nn.Module, seen: Trace) -> nn.Module:
    """Return the folded copy of `fold`; nobody has looked whether it answers alike."""
    copied = copy.deepcopy(network).eval()
    shared = list(seen.norm_of.values())
    for name, norm_name in seen.norm_of.items():
        norm = copied.get_submodule(norm_name)
        # A normalisation or layer that is used twice cannot be folded into one place.
        if shared.count(norm_name) > 1 or seen.calls[name] > 1 or norm.running_mean is None:
            continue
        layer = copied.get_submodule(name)
        weight, bias = folded(layer, norm)
        if bias is None:
            continue
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        parent, _, child = norm_name.rpartition(".")
        # timm's normalisations end in an activation of their own.
        setattr(copied.get_submodule(parent), child, getattr(norm, "act", nn.Identity()))
    return copied

"""What strategies watch of single layers: weights, responses, and gradients.

Each function feeds a callback with (layer name, values) and holds at most one batch of values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.observe.fold import folded
from capdeploy.observe.taps import evaluating, requiring_grad, tapped
from capdeploy.observe.trace import Trace
from capdeploy.rebuild import NORMS

Tell = Callable[[str, torch.Tensor], None]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def watched_layers(seen: Trace) -> dict[str, str]:
    """Map the layer to tap to the filter-making layer that it speaks for; the head is left out.

    A filter's response is read after its batch normalisation, where there is one.
    """
    return {seen.norm_of.get(name, name): name for name in seen.filters if name != seen.head}


def weights(network: nn.Module, seen: Trace, tell: Tell) -> None:
    """Feed each layer's weights, (1, C, F, 1) with the F weights of each of C filters.

    Batch normalisation is folded in first.
    """
    for name in watched_layers(seen).values():
        norm = seen.norm_of.get(name)
        weight, _ = folded(
            network.get_submodule(name), network.get_submodule(norm) if norm else None
        )
        tell(name, weight.flatten(1)[None, ..., None])


def norm_scales(network: nn.Module, seen: Trace, tell: Tell) -> None:
    """Feed the scale of each layer's batch normalisation, (1, C, 1, 1); others are left out."""
    for name, norm in seen.norm_of.items():
        scale = getattr(network.get_submodule(norm), "weight", None)
        if scale is not None and name != seen.head:
            tell(name, scale.detach()[None, :, None, None])


def activations(network: nn.Module, seen: Trace, batches: Batches, tell: Tell) -> None:
    """Feed each layer's response to each batch, (N, C, H, W), without gradients."""
    speaks_for = watched_layers(seen)

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        tell(speaks_for[name], as_maps(layer, _normalised(layer, inputs[0], output)))

    with torch.no_grad(), evaluating(network), tapped(network, speaks_for, hook):
        for images, _ in batches:
            network(images)


def _normalised(layer: nn.Module, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Return a layer's answer; timm's normalisations end in an activation, which is left out."""
    if not isinstance(layer, NORMS) or isinstance(
        getattr(layer, "act", None), (type(None), nn.Identity)
    ):
        return output
    mean, variance, eps = layer.running_mean, layer.running_var, layer.eps
    return F.batch_norm(inputs, mean, variance, layer.weight, layer.bias, mean is None, 0.0, eps)


def gradients(
    network: nn.Module,
    seen: Trace,
    batches: Batches,
    tell: Tell,
    *,
    times_response: bool,
    of_answer: bool = False,
) -> None:
    """Feed the gradient of each image's own loss by each response, (N, C, H, W).

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    seen : Trace
        Its trace.
    batches : Batches
        Images and targets.
    tell : Tell
        Hears (layer, values).
    times_response : bool
        Multiply with the response itself.
    of_answer : bool
        Take the logit of the image's class instead of its cross-entropy.
    """
    speaks_for = watched_layers(seen)

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        # Only the detached response is kept: a closure over `output` itself would be a reference
        # cycle through autograd, which no garbage collector sees.
        response = output.detach()

        def receive(gradient: torch.Tensor) -> None:
            value = response * gradient if times_response else gradient
            tell(speaks_for[name], as_maps(layer, value))

        output.register_hook(receive)  # type: ignore[no-untyped-call]
        # An in-place ReLU behind this layer must not overwrite the response: it gets a copy.
        return output.clone()

    # Parameters need no gradient: the graph hangs on the images, and .grad stays untouched.
    with evaluating(network), requiring_grad(network, False), tapped(network, speaks_for, hook):
        for images, labels in batches:
            answers = network(images.requires_grad_(True))
            # Summed, not averaged: an image's gradient must not depend on the batch it is in.
            if of_answer:
                objective = answers.gather(1, labels[:, None]).sum()
            else:
                objective = F.cross_entropy(answers, labels, reduction="sum")
            objective.backward()


def as_maps(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Give a linear layer's (N, ..., C) output the (N, C, H, W) shape of feature maps."""
    if output.ndim == 4 and not isinstance(layer, nn.Linear):
        return output
    return output.reshape(output.shape[0], -1, output.shape[-1]).transpose(1, 2)[..., None]

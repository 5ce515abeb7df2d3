"""How a convolution hands relevance back to its inputs, so that it gives out what it was given.

- input layer: the box rule zB, from the real bounds of the input;
- others: alpha1beta0 (contributions of the response's own sign only, bias left out), or gamma, or
  epsilon.

Sources: Bach et al., PLoS ONE 10(7), 2015 (epsilon, alpha-beta); Montavon et al., Pattern
Recognition 65, 2017 (zB, z+); Montavon et al., Layer-wise relevance propagation: an overview,
2019 (gamma).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

EPSILON = 1e-6
NOTHING = 1e-30
"""What a sum of contributions is not told from zero below; its reciprocal is a float32 yet."""
Tensors = tuple[torch.Tensor, ...]
Shares = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Rules:
    """How relevance is handed back.

    Parameters
    ----------
    convolution : str
        ``alpha1beta0``, ``gamma`` or ``epsilon``.
    gamma : float
        Extra weight of positive parts under the gamma rule.
    addition : str
        ``signed`` or ``epsilon``.
    bounds : tuple[tuple[float, ...], tuple[float, ...]] | None
        Lowest and highest value of each input channel, for zB; None treats the first layer as
        any other.
    """

    convolution: str = "alpha1beta0"
    gamma: float = 0.25
    addition: str = "signed"
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None


class Halves:
    """A convolution's weights by sign, split once for all batches.

    Parameters
    ----------
    layer : nn.Conv2d
        The convolution, batch normalisation folded in; its weights do not change.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer, weight = layer, layer.weight.detach()
        self.positive, self.negative = weight.clamp(min=0), weight.clamp(max=0)


class _Passage(NamedTuple):
    """A convolution, what it read and answered, and the relevance of its answer."""

    halves: Halves
    inputs: torch.Tensor
    response: torch.Tensor
    relevance: torch.Tensor
    rules: Rules
    rectified: bool


def steady(values: torch.Tensor) -> torch.Tensor:
    """Push values away from zero, each to its own side, by a little of its image's mean size."""
    size = values.abs().flatten(1).mean(dim=1).view(-1, *[1] * (values.ndim - 1))
    return values + (EPSILON * size + 1e-30) * torch.where(values < 0, -1.0, 1.0)


def ratio(relevance: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Relevance per unit of value; nothing where there is no value."""
    nothing = (values > NOTHING).logical_not_()
    return (relevance / values).masked_fill_(nothing, 0.0)


def back(function: Callable[..., Any], inputs: Tensors, gradient: Any) -> Tensors:
    """Multiply a function's transposed Jacobian at `inputs` with `gradient`."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
        result = function(*leaves)
        if callable(gradient):
            gradient = gradient(result.detach())
        found = torch.autograd.grad(result, leaves, gradient, allow_unused=True)
    return tuple(
        torch.zeros_like(value) if grad is None else grad
        for value, grad in zip(inputs, found, strict=True)
    )


def _convolve(layer: nn.Conv2d, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def call(values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = layer._conv_forward(values, weight, None)
        return result

    return call


def _box(given: _Passage) -> torch.Tensor:
    halves, inputs, _, relevance, rules, _ = given
    layer = halves.layer
    low, high = (
        inputs.new_tensor(bound)[None, :, None, None].expand_as(inputs)
        for bound in rules.bounds or ((), ())
    )

    def contributions(value: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        whole = _convolve(layer, layer.weight)(value)
        return (
            whole - _convolve(layer, halves.positive)(low) - _convolve(layer, halves.negative)(high)
        )

    parts = (inputs, low, high)
    slopes = back(contributions, parts, lambda total: ratio(relevance, total))
    return sum((part * slope for part, slope in zip(parts, slopes, strict=True)), torch.zeros(()))


def _alpha1beta0(given: _Passage) -> torch.Tensor:
    relevance = given.relevance
    # Behind a ReLU a negative response has no relevance. Without one (linear bottlenecks) it has,
    # and then it is the negative contributions that made it.
    negative = given.response < 0
    if not bool(negative.logical_and(relevance).any()):
        return _of_one_sign(given, relevance, positive=True)
    rest = torch.where(negative, relevance, 0.0)
    shared = _of_one_sign(given, relevance - rest, positive=True)
    return shared + _of_one_sign(given, rest, positive=False)


def _of_one_sign(given: _Passage, relevance: torch.Tensor, *, positive: bool) -> torch.Tensor:
    """Share relevance among the contributions of one sign."""
    halves, inputs = given.halves, given.inputs
    same, other = halves.positive, halves.negative
    on_positive = _convolve(halves.layer, same if positive else other)

    def share(total: torch.Tensor) -> torch.Tensor:
        return ratio(relevance, total) if positive else -ratio(relevance, -total)

    # Behind a ReLU nothing is negative, and half the work can be left out.
    if given.rectified or bool((inputs >= 0).all()):
        (slope,) = back(on_positive, (inputs,), share)
        return inputs * slope
    on_negative = _convolve(halves.layer, other if positive else same)

    def contributions(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return on_positive(above) + on_negative(below)

    parts = (inputs.clamp(min=0), inputs.clamp(max=0))
    slopes = back(contributions, parts, share)
    return parts[0] * slopes[0] + parts[1] * slopes[1]


def _gamma(given: _Passage) -> torch.Tensor:
    halves, inputs, _, relevance, rules, _ = given
    weight = halves.layer.weight + rules.gamma * halves.positive
    call = _convolve(halves.layer, weight)
    slope = back(call, (inputs,), lambda total: relevance / steady(total))
    return inputs * slope[0]


def _epsilon(given: _Passage) -> torch.Tensor:
    halves, inputs, _, relevance, *_ = given
    slope = back(halves.layer, (inputs,), lambda total: relevance / steady(total))
    return inputs * slope[0]


_CONVOLUTIONS = {"alpha1beta0": _alpha1beta0, "gamma": _gamma, "epsilon": _epsilon}


def convolution(
    halves: Halves,
    inputs: torch.Tensor,
    response: torch.Tensor,
    relevance: torch.Tensor,
    rules: Rules,
    *,
    boxed: bool,
    rectified: bool,
) -> torch.Tensor:
    """Hand the relevance of a convolution's outputs to its inputs.

    Parameters
    ----------
    halves : Halves
        The convolution.
    inputs : torch.Tensor
        (N, C, H, W), what it read.
    response : torch.Tensor
        (N, O, H', W'), what it answered.
    relevance : torch.Tensor
        (N, O, H', W') of its outputs.
    rules : Rules
        Which rule.
    boxed : bool
        Whether the inputs are pixels within the rules' bounds.
    rectified : bool
        Whether it is known that no input is negative, so that none need be looked at.

    Returns
    -------
    torch.Tensor
        (N, C, H, W).
    """
    rule = _box if boxed else _CONVOLUTIONS[rules.convolution]
    return rule(_Passage(halves, inputs, response, relevance, rules, rectified))

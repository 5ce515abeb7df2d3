"""How every other operation hands relevance back to its inputs.

- linear layers: epsilon; a bias keeps its share;
- residual additions, and subtractions: to the summands of the result's own sign (epsilon's rule
  where signs agree), or epsilon;
- average pooling, means and sums: in proportion to the responses; max pooling: to the winner;
- activations, dropout and element-wise normalisation: unchanged, they have one input each;
- products with a gate (squeeze-excite), quotients: all to the gated signal, nothing to the gate;
- matrix products: to both factors alike, to each in proportion to its values;
- concatenation, flattening, slicing, shuffling: along with the value.

Sources: Bach et al., PLoS ONE 10(7), 2015 (epsilon); Arras et al., WASSA 2017 (gates).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.observe.rules import NOTHING, Rules, Shares, Tensors, back, ratio, steady

_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SUBTRACT = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
_MULTIPLY = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_DIVIDE = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}
_PRODUCTS = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, "matmul", "bmm"}
_WEIGHING = {
    F.linear, F.conv2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean", torch.sum, "sum",
}  # fmt: skip
_TWO = _ADD | _SUBTRACT | _MULTIPLY | _DIVIDE | _PRODUCTS
_WEIGHERS = (nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_MAXIMA = (nn.MaxPool2d, nn.AdaptiveMaxPool2d)
_LINEAR_MAPS = (
    nn.Flatten, nn.ZeroPad2d, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample,
)  # fmt: skip
_MOVERS = {
    "transpose", "permute", "flip", "roll", "view", "reshape", "max_pool2d", "channel_shuffle",
    "native_channel_shuffle", "getitem", "index_select", "gather", "take_along_dim", "swapaxes",
    "swapdims", "movedim", "moveaxis",
}  # fmt: skip


def operation(
    kind: Any, again: Callable[..., Any], inputs: Tensors, relevance: torch.Tensor, rules: Rules
) -> Shares:
    """Hand the relevance of any other operation's result to its inputs.

    Parameters
    ----------
    kind : Any
        The module, the function, or the name of the method.
    again : Callable[..., Any]
        The operation as a function of `inputs`.
    inputs : Tensors
        The tensors that it read.
    relevance : torch.Tensor
        Of its result, in the result's shape.
    rules : Rules
        Which rule for additions.

    Returns
    -------
    Shares
        One for each input, in its shape; None for a gate.
    """
    module = isinstance(kind, nn.Module)
    if not module and len(inputs) > 1 and kind in _TWO:
        return _of_two(kind, again, inputs, relevance, rules)
    if isinstance(kind, _WEIGHERS) or (not module and kind in _WEIGHING):
        slopes = back(again, inputs, lambda total: relevance / steady(total))
        return tuple(value * slope for value, slope in zip(inputs, slopes, strict=True))
    # An element-wise operation has one input for each output; anything else moves values about.
    alike = len(inputs) == 1 and inputs[0].shape == relevance.shape
    if alike and not isinstance(kind, (*_MAXIMA, *_LINEAR_MAPS)) and not _moves(kind):
        return (relevance,)
    return back(again, inputs, relevance)


def _of_two(
    kind: Any, again: Callable[..., Any], inputs: Tensors, relevance: torch.Tensor, rules: Rules
) -> Shares:
    """Split among several inputs that one result is made of."""
    if kind in _MULTIPLY | _DIVIDE:
        return _to_the_signal(inputs, relevance)
    if kind in _ADD | _SUBTRACT:
        first, *rest = inputs
        signed = [-value for value in rest] if kind in _SUBTRACT else rest
        return _sum((first, *signed), relevance, signed=rules.addition == "signed")
    # A product is as much its one factor's as its other's.
    slopes = back(again, inputs, lambda total: relevance / steady(total))
    return tuple(value * slope / len(inputs) for value, slope in zip(inputs, slopes, strict=True))


def _sum(inputs: Tensors, relevance: torch.Tensor, *, signed: bool) -> Tensors:
    """Split in proportion to the summands' values; signed, among those of the sum's own sign.

    That is the convolutions' rule, and epsilon's where signs agree. Where they do not, epsilon
    hands out two shares that are larger than the whole, of opposite sign; see decision 0009.
    """
    parts = [value.expand_as(relevance) for value in inputs]
    total = functools.reduce(torch.add, parts)
    if not signed:
        shares = _in_proportion(parts, relevance / steady(total))
    else:
        sign = torch.copysign(total.new_ones(()), total)
        parts = [(part * sign).clamp_(min=0) for part in parts]
        total = functools.reduce(torch.add, parts)
        shares = _in_proportion(parts, ratio(relevance, total))
        # Where nothing is added to nothing, all get the same.
        rest = relevance.masked_fill(total > NOTHING, 0.0) / len(parts)
        if bool(rest.any()):
            shares = [share + rest for share in shares]
    return tuple(
        share.sum_to_size(value.shape) for share, value in zip(shares, inputs, strict=True)
    )


def _in_proportion(parts: Sequence[torch.Tensor], each: torch.Tensor) -> list[torch.Tensor]:
    return [part * each for part in parts]


def _to_the_signal(inputs: Tensors, relevance: torch.Tensor) -> Shares:
    """Give all to the larger factor: a gate has one value per channel, the signal one per pixel."""
    signal = max(range(len(inputs)), key=lambda position: inputs[position].numel())
    return tuple(relevance if place == signal else None for place in range(len(inputs)))


def _moves(kind: Any) -> bool:
    """Tell whether an operation that keeps the shape may still move values to other places."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name in _MOVERS

"""What happens in one forward pass: which layers run, in which order, at which sizes.

Definition order is not execution order, and "the next module" need not be a convolution's batch
normalisation; only a real pass tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from capdeploy.errors import ArchitectureError
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.rebuild import NORMS


@dataclass
class Trace:
    """The layers with weights of one forward pass, in order of execution.

    Parameters
    ----------
    filters : list[str]
        Convolutions and linear layers, in order of their first call.
    norms : list[str]
        Batch normalisations, likewise.
    norm_of : dict[str, str]
        Convolution or linear layer to the batch normalisation that takes its output directly.
    positions : dict[str, int]
        Output positions per image (height x width), summed over the layer's calls.
    widths : dict[str, int]
        Output channels of each layer's last call.
    calls : dict[str, int]
        How often each of these layers ran.
    outputs : int
        Width of the network's answer.
    """

    filters: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    norm_of: dict[str, str] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    outputs: int = 0

    @property
    def head(self) -> str:
        """The layer that makes the answer: the last one executed, as wide as the answer."""
        last = self.filters[-1] if self.filters else ""
        if not last or self.widths[last] != self.outputs:
            raise ArchitectureError(
                f"no classifier head found: the network answers {self.outputs} values, its last "
                f"layer with weights is {last or 'missing'} of width {self.widths.get(last, 0)}"
            )
        return last


def trace(network: nn.Module, example: torch.Tensor) -> Trace:
    """Run one forward pass and write down what ran.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    example : torch.Tensor
        (N, 3, H, W) float32.

    Returns
    -------
    Trace
        The layers with weights that took part.

    Raises
    ------
    ArchitectureError
        If the pass fails or changes the example, or the answer is not (N, outputs).
    """
    seen = Trace()
    makers: dict[int, tuple[str, torch.Tensor, int]] = {}

    def note(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(layer, NORMS):
            maker = makers.get(id(inputs[0]))
            # An operation in place in between hands the same tensor on, with other values.
            if maker is not None and maker[1] is inputs[0] and maker[2] == inputs[0]._version:
                seen.norm_of.setdefault(maker[0], name)
            if name not in seen.norms:
                seen.norms.append(name)
            return
        # The tensor is kept alive so that its id cannot be given to another one.
        makers[id(output)] = (name, output, output._version)
        if name in seen.filters:
            seen.filters.remove(name)
        seen.filters.append(name)
        seen.calls[name] = seen.calls.get(name, 0) + 1
        seen.widths[name] = output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1]
        seen.positions[name] = seen.positions.get(name, 0) + _positions(layer, output)

    watched = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear, *NORMS))
    ]
    with torch.no_grad(), evaluating(network), tapped(network, watched, note):
        shown = example.clone()
        try:
            answer = network(shown)
        except Exception as error:  # the user's network may raise anything
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise ArchitectureError(
                f"the network cannot take an input of {tuple(example.shape[1:])}: {line}; "
                "check --input-size"
            ) from error
    _require_unchanged(shown)
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
        shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ArchitectureError(f"the network answers {shape}, expected (images, classes)")
    seen.outputs = answer.shape[1]
    return seen


def _require_unchanged(shown: torch.Tensor) -> None:
    """Stop if a network writes to its input: shown again, it would be another image each time."""
    if shown._version:
        raise ArchitectureError(
            "the network changes its input in place; let its forward function work on a copy"
        )


def _positions(layer: nn.Module, output: torch.Tensor) -> int:
    spatial = output.shape[2:] if isinstance(layer, nn.Conv2d) else output.shape[1:-1]
    return math.prod(spatial)

"""Residual blocks that can be removed whole, found by experiment, as plain data.

A block answers ``act(x + branch(x))``. Without its weights the branch answers nothing, so a module
that then gives back its input, or the input's positive part, runs just as well without a branch:
no tracing, and no knowledge of how anyone writes such a block.

Veit et al., Residual networks behave like ensembles of relatively shallow networks, NeurIPS 2016:
a trained network survives the loss of such a block, as no other layer's.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from capdeploy.model import Model, device_of
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.rebuild import NORMS, REMAINS
from capdeploy.values.group import Block, Remains

FILTERS = (nn.Conv2d, nn.Linear)


def find(model: Model) -> tuple[Block, ...]:
    """Find every innermost block whose input and output can be the same.

    Parameters
    ----------
    model : Model
        The network; it is left as it was.

    Returns
    -------
    tuple[Block, ...]
        In order of execution.
    """
    once = {name for name, calls in model.trace.calls.items() if calls == 1} - {model.head}
    order = {name: place for place, name in enumerate(model.trace.filters)}
    seen = _inputs(model, once)
    found: dict[int, Block] = {}
    # Innermost first: what holds a block that is found already is a row of blocks.
    for name in sorted(seen, key=lambda name: -name.count(".")):
        if any(block.name.startswith(f"{name}.") for block in found.values()):
            continue
        module = model.module.get_submodule(name)
        left = _left(module, seen[name])
        if left is not None:
            first = min(map(order.__getitem__, _named(name, module, FILTERS)))
            found[first] = _plain(name, module, left)
    return tuple(block for _, block in sorted(found.items()))


def _plain(name: str, module: nn.Module, left: Remains) -> Block:
    layers = _named(name, module, (*FILTERS, *NORMS))
    own = {
        weight for layer in layers
        for weight in module.get_submodule(layer.removeprefix(f"{name}.")).parameters()
    }  # fmt: skip
    others = sum(weight.numel() for weight in set(module.parameters()) - own)
    return Block(name=name, becomes=left, layers=layers, other_parameters=others)


def _inputs(model: Model, once: set[str]) -> dict[str, tuple[int, ...]]:
    """Note the input's shape of every module around layers that ran once, if it keeps its shape."""
    filters = {
        name: set(_named(name, module, FILTERS))
        for name, module in model.module.named_modules() if name
    }  # fmt: skip
    modules = [name for name, inner in filters.items() if inner and inner <= once]
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [each for each in inputs if isinstance(each, torch.Tensor)]
        alone = len(tensors) == len(inputs) == 1 and isinstance(output, torch.Tensor)
        if alone and tensors[0].shape == output.shape:
            shapes[name] = tuple(output.shape)

    with torch.no_grad(), evaluating(model.module), tapped(model.module, modules, note):
        model.module(model.example())
    return shapes


def _named(name: str, module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> tuple[str, ...]:
    return tuple(
        f"{name}.{inner}" for inner, layer in module.named_modules()
        if inner and isinstance(layer, kinds)
    )  # fmt: skip


def _left(module: nn.Module, shape: tuple[int, ...]) -> Remains | None:
    """Say what is left of a module without its weights, if it hands its input on."""
    silent = copy.deepcopy(module).eval()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device_of(module))
    with torch.no_grad():
        for weight in (*silent.parameters(), *silent.buffers()):
            weight.zero_()
        try:
            answer = silent(values.clone())
        except (TypeError, RuntimeError):  # it wants more than hooks see, such as keywords
            return None
        return next(
            (name for name, kind in REMAINS.items() if torch.equal(answer, kind()(values))), None
        )

"""Re-solve the consumers of cut channels so that they answer as in the intact network.

A layer that lost input channels can make up for much of the loss with those that remain: its
weights are the ridge regression from its present inputs to the outputs it used to have. Layers
are solved in order of execution, so each one also makes up for what is left of earlier errors.
No labels, no gradients; sums over images.

He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017, sections 3.1
(the least-squares step) and 3.3 (the last layer of a residual branch makes up for what the shortcut
beside it lacks), here with a ridge towards the present weights and per-image sampling of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capdeploy.catalog import listed
from capdeploy.model import Model
from capdeploy.observe.rows import (
    LARGEST,
    input_rows,
    inputs_of,
    is_grouped_map,
    kept_channels,
    output_rows,
)
from capdeploy.observe.walk import Arrival, Batch, Walk
from capdeploy.progress import Say
from capdeploy.rebuild import NORMS
from capdeploy.samples import Images
from capdeploy.values.plan import LayerCut, PruningPlan

RIDGE = 1e-2
"""In units of the mean square of a layer's inputs."""
ROWS_PER_INPUT = 20
"""Rows of a regression for each unknown of a filter; with fewer of them the ridge is higher."""
STEADY = 1e-6
"""Share of its mean square below which an input's variance counts for no more."""
SILENT = 1e-3
"""Share of a norm's largest scale below which a channel counts as silenced."""


def reconstruct(
    intact: Model,
    cut: Model,
    plan: PruningPlan,
    images: Sequence[Images],
    *,
    batch_size: int,
    say: Say,
) -> Model:
    """Re-solve every convolution and linear layer from the first that lost input channels on.

    Parameters
    ----------
    intact : Model
        The head-cut network before the cut.
    cut : Model
        The network that `plan` made of it; it is left as it was.
    plan : PruningPlan
        Which channels remain.
    images : Sequence[Images]
        Training images, of dropped classes too; no labels are needed.
    batch_size : int
        Images per pass.
    say : Say
        Hears of the progress.

    Returns
    -------
    Model
        A copy with new weights in those layers; shapes are the same.
    """
    module = cut.copy_module().eval()
    cuts = {entry.layer: entry for entry in plan.layers}
    wishes = _wishes(cut, module, cuts, _behind(intact, plan))
    lost = [name for name, each in cuts.items() if each.kept_in is not None]
    if unsolved := [name for name in lost if name in cut.trace.filters and name not in wishes]:
        say.note(
            f"not re-solved: {listed(unsolved)}: over {LARGEST} inputs, used several times, or "
            "computed in a way of their own"
        )
    batches = [batch for source in images for batch in _batches(source, batch_size, cut.device)]
    here, there = Walk(module, batches), Walk(intact.module, batches)
    for done, name in enumerate(wishes):
        layer, whole = module.get_submodule(name), intact.module.get_submodule(name)
        norm = _as_it_was(name, cut, module, intact, cuts)
        kept = cuts[name].kept_out if name in cuts else None
        # The head's cut is in the intact network already: it is the head-cut one.
        if name == intact.head and intact.head_cut:
            kept = None
        sums = _Sums(getattr(layer, "groups", 1))
        for place in range(len(batches)):
            mine, (theirs, answer) = here.at(name, place), there.through(name, place)
            with torch.no_grad():
                wanted = _wanted(whole, norm, kept, answer, theirs, mine)
            sums.add(input_rows(layer, mine.read), output_rows(layer, wanted))
        _solve(layer, norm, sums)
        say.advance(done + 1, len(wishes), f"reconstructed {name}")
    return cut.with_module(module)


def _as_it_was(
    name: str, cut: Model, module: nn.Module, intact: Model, cuts: Mapping[str, LayerCut]
) -> nn.Module | None:
    """Give the norm behind a layer, its numbers those of the intact network again.

    What a layer is to answer are the intact one's outputs in front of its norm, so that norm has to
    stand behind it. After an earlier re-solving or a training it would not.
    """
    behind = cut.trace.norm_of.get(name)
    if behind is None:
        return None
    norm, whole = module.get_submodule(behind), intact.module.get_submodule(behind)
    kept = next((cuts[each].kept_out for each in (behind, name) if each in cuts), None)
    for part in ("weight", "bias", "running_mean", "running_var"):
        mine, theirs = getattr(norm, part, None), getattr(whole, part, None)
        if isinstance(norm, NORMS) and mine is not None and theirs is not None:
            with torch.no_grad():
                mine.copy_(theirs if kept is None else theirs[list(kept)])
    return norm


def _wanted(
    whole: nn.Module,
    norm: nn.Module | None,
    kept: tuple[int, ...] | None,
    answer: torch.Tensor,
    theirs: Arrival,
    mine: Arrival,
) -> torch.Tensor:
    """Say what a layer is to answer: what it used to, and what the shortcut beside it lacks."""
    wanted = kept_channels(whole, answer, kept)
    if theirs.beside is None or mine.beside is None:
        return wanted
    # Values that are broadcast when they are added have other shapes.
    if theirs.beside.shape != answer.shape or mine.beside.shape != wanted.shape:
        return wanted
    missing = kept_channels(whole, theirs.beside, kept) - mine.beside
    return wanted + missing * _per_unit(norm, wanted)


def _per_unit(norm: nn.Module | None, outputs: torch.Tensor) -> torch.Tensor:
    """Say how much a layer's outputs have to change for one unit behind its norm."""
    if not isinstance(norm, NORMS) or norm.running_var is None:
        return outputs.new_ones(())
    scale = outputs.new_ones(1) if norm.weight is None else norm.weight.detach()
    # A channel that its norm all but silences cannot make up for anything.
    steep = scale.abs() > SILENT * scale.abs().max()
    width = (norm.running_var + norm.eps).sqrt()
    change = torch.where(steep, width / torch.where(steep, scale, 1.0), 0.0)
    return change.reshape(1, -1, *(1,) * (outputs.ndim - 2))


def _behind(intact: Model, plan: PruningPlan) -> frozenset[str]:
    """Name the layers that run after the first removed block."""
    order = intact.trace.filters
    first = next((place for place, name in enumerate(order) if name in plan.gone), len(order))
    return frozenset(order[first:])


def _wishes(
    cut: Model, module: nn.Module, cuts: Mapping[str, LayerCut], off: frozenset[str]
) -> list[str]:
    """List the layers that are solved, in order of execution."""
    wishes: list[str] = []
    for name in cut.trace.filters:
        layer = module.get_submodule(name)
        small = is_grouped_map(layer) and inputs_of(layer) <= LARGEST
        # Behind the first layer that lost inputs, all inputs are a little off; every layer helps.
        lost = name in off or (name in cuts and cuts[name].kept_in is not None)
        if small and (wishes or lost) and cut.trace.calls[name] == 1:
            wishes.append(name)
    return wishes


def _batches(source: Images, batch_size: int, device: torch.device) -> Iterator[Batch]:
    for start in range(0, len(source), batch_size):
        places = np.arange(start, min(start + batch_size, len(source)))

        def batch(places: npt.NDArray[np.int64] = places) -> torch.Tensor:
            inputs = source.preprocessing.apply(source.pixels(places))
            return torch.from_numpy(inputs).to(device)

        yield batch


class _Sums:
    """Streaming sums of the normal equations of each group; memory independent of the images.

    Values are taken from the first batch's means, so that little is lost where they hardly vary.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.rows = 0
        self.origins: tuple[torch.Tensor, ...] = ()
        self.x: Any = 0
        self.y: Any = 0
        self.xx: Any = 0
        self.xy: Any = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add rows of inputs and of wanted outputs, both with the groups one after the other."""
        parts = [part.reshape(len(part), self.groups, -1).transpose(0, 1) for part in (x, y)]
        if not self.rows:
            self.origins = tuple(part.mean(dim=1, keepdim=True) for part in parts)
        self.rows += len(x)
        x, y = (part - origin for part, origin in zip(parts, self.origins, strict=True))
        self.x = self.x + x.sum(dim=1, keepdim=True, dtype=torch.float64)
        self.y = self.y + y.sum(dim=1, keepdim=True, dtype=torch.float64)
        # A batch's products lose nothing in single precision; their sum over batches would.
        self.xx = self.xx + (x.mT @ x).double()
        self.xy = self.xy + (x.mT @ y).double()

    def moments(self) -> tuple[torch.Tensor, ...]:
        """Return the means of inputs and outputs, (groups, 1, n), and their covariances."""
        x, y = self.x / self.rows, self.y / self.rows
        xx, xy = self.xx / self.rows - x.mT @ x, self.xy / self.rows - x.mT @ y
        return x + self.origins[0], y + self.origins[1], xx, xy


def _solve(layer: nn.Module, norm: nn.Module | None, sums: _Sums) -> None:
    """Write the ridge solution into a layer; the means go into its bias, or its norm's mean."""
    weight = layer.get_parameter("weight")
    bias = getattr(layer, "bias", None)
    mean_x, mean_y, xx, xy = sums.moments()
    present = weight.detach().double().reshape(len(xx), -1, xx.shape[1]).mT
    # Inputs that hardly vary say nothing about their weights, and rounding would speak for them.
    least = STEADY * (_level(xx) + mean_x.square().mean(dim=(1, 2))) + 1e-12
    # What of the means cannot be absorbed anywhere has to be fitted by the weights.
    if bias is None and not isinstance(norm, NORMS):
        xx, xy = xx + mean_x.mT @ mean_x, xy + mean_x.mT @ mean_y
    # A linear layer has one row an image: few of them would be learnt by heart.
    scarce = max(1.0, ROWS_PER_INPUT * xx.shape[1] / sums.rows)
    ridge = RIDGE * scarce * torch.maximum(_level(xx), least)
    damped = xx + ridge[:, None, None] * torch.eye(xx.shape[1]).to(xx)
    solved = present + torch.linalg.solve(damped, xy - xx @ present)
    with torch.no_grad():
        weight.copy_(solved.mT.reshape(weight.shape).float())
        shift = (mean_y - mean_x @ solved).flatten().float()
        if bias is not None:
            bias.copy_(shift)
        elif isinstance(norm, NORMS) and norm.running_mean is not None:
            norm.running_mean.sub_(shift)


def _level(products: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each group's inputs."""
    return products.diagonal(dim1=1, dim2=2).mean(dim=1)

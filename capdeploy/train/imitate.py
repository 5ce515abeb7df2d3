"""What a cut network is trained on: labels, the teacher's answers, and the teacher's channels.

The plan says which of the teacher's channels each remaining channel was, so the two can be
compared layer by layer without any adapter (FitNets needs one). That, and images of the dropped
classes, which need no label here, keep a network general when there are few images to train on
(measured in benchmarks/RESULTS.md).

Hinton et al., Distilling the knowledge in a neural network, 2015; Romero et al., FitNets, 2015.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.model import Model
from capdeploy.observe import rows
from capdeploy.observe.taps import tapped
from capdeploy.values.plan import PruningPlan

UNLABELLED = -1
EPS = 1e-6


@dataclass(frozen=True)
class Teacher:
    """Whom to imitate, and how closely.

    Parameters
    ----------
    model : Model
        The head-cut network before the cut.
    temperature : float
        Of the softened answers.
    channels : Mapping[str, tuple[int, ...] | None]
        Layers to compare, to the teacher's channels that remain (None: all of them).
    """

    model: Model
    temperature: float
    channels: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)


def kept_channels(teacher: Model, plan: PruningPlan) -> dict[str, tuple[int, ...] | None]:
    """List the layers to compare: where a layer is normalised its norm, otherwise the layer."""
    kept = {cut.layer: cut.kept_out for cut in plan.layers}
    trace = teacher.trace
    gone = {teacher.head, *plan.gone}
    # The norm behind a layer may lie in the next block (pre-activation), and go with it.
    removed = tuple(f"{block.name}." for block in plan.removed)
    norms = {
        name: norm for name, norm in trace.norm_of.items() if not norm.startswith(removed)
    }  # fmt: skip
    spoken = [norms.get(name, name) for name in trace.filters if name not in gone]
    return {name: kept.get(name) for name in spoken}


@contextmanager
def lesson(
    module: nn.Module, teacher: Teacher | None, weights: torch.Tensor | None = None
) -> Iterator[Any]:
    """Prepare the loss of one network: a callable (images, targets) -> loss.

    Parameters
    ----------
    module : nn.Module
        The network that learns.
    teacher : Teacher | None
        Whom to imitate; None: learn from labels alone.
    weights : torch.Tensor | None
        What the loss of each output's images counts, (outputs,); None: all alike.

    Yields
    ------
    Any
        The loss function. A target of -1 marks an image without a label.
    """
    if teacher is None:
        yield lambda images, targets: _labels(module(images), targets, weights)
        return
    mine: dict[str, torch.Tensor] = {}
    theirs: dict[str, torch.Tensor] = {}

    def keep_mine(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        mine[name] = output
        # An in-place activation behind the layer must not overwrite what is compared.
        return output.clone()

    def keep_theirs(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        kept = teacher.channels[name]
        whole = kept is None
        theirs[name] = output.clone() if whole else rows.kept_channels(layer, output, kept)

    def loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher.model.module(images)
        given = module(images)
        answers = 0.5 * _softened(given, wanted, teacher.temperature)
        total = answers + 0.5 * _labels(given, targets, weights)
        for name, value in mine.items():
            total = total + _distance(value, theirs[name])
        return total

    teacher.model.module.eval()
    names = list(teacher.channels)
    with tapped(module, names, keep_mine), tapped(teacher.model.module, names, keep_theirs):
        yield loss


def _distance(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Mean squared difference in units of the teacher's variance, so that layers count alike."""
    return F.mse_loss(mine, theirs) / (theirs.var() + EPS)


def _softened(given: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    return (
        F.kl_div(
            F.log_softmax(given / temperature, dim=1),
            F.log_softmax(wanted / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def _labels(
    given: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    known = targets != UNLABELLED
    if not known.any():
        return given.sum() * 0.0
    return F.cross_entropy(
        given[known], targets[known], weight=None if weights is None else weights.to(given)
    )

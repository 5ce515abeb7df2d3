"""What a cut network is trained on: labels, the teacher's answers, and the teacher's channels.

Layer by layer, all channels of the teacher are read out of those that remain by a small linear map,
which begins as the regression of the ones on the others and is learnt along. So the remaining
channels need not stay what they were: they may turn towards whatever carries most of what has
gone (FitNets' regressor, begun where the plan says). In networks with residual additions only the
layers that feed an addition are compared: what lies between two additions may come about in any
way. That, and images of the dropped classes, which need no label here, keep a network general when
there are few images to train on; docs/decisions/0008 has the figures.

Hinton et al., Distilling the knowledge in a neural network, 2015; Romero et al., FitNets, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.model import Model
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.samples import Images
from capdeploy.values.group import Group
from capdeploy.values.plan import PruningPlan

UNLABELLED = -1
EPS = 1e-6
RIDGE = 1e-4
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Readout:
    """How all channels of one of the teacher's layers follow from those that remain.

    Parameters
    ----------
    weight : torch.Tensor
        (C, k) float32, from the k channels that remain to all C.
    bias : torch.Tensor
        (C,) float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class Teacher:
    """Whom to imitate, and how closely.

    Parameters
    ----------
    model : Model
        The head-cut network before the cut.
    temperature : float
        Of the softened answers.
    readouts : Mapping[str, Readout]
        Layers to compare, and where reading the teacher's channels out of ours begins.
    """

    model: Model
    temperature: float
    readouts: Mapping[str, Readout] = field(default_factory=dict)


def compared(groups: Sequence[Group]) -> list[str]:
    """List the layers to compare: those that feed residual additions if any do, else all.

    Parameters
    ----------
    groups : Sequence[Group]
        The teacher's coupled groups.

    Returns
    -------
    list[str]
        Filter-making layers.
    """
    streams = [group for group in groups if group.residual]
    return [maker for group in streams or groups for maker in group.makers]


def readouts(
    teacher: Model,
    plan: PruningPlan,
    layers: Sequence[str],
    images: Sequence[Images],
    batch_size: int,
) -> dict[str, Readout]:
    """Regress all channels of the teacher's layers on those that remain.

    Parameters
    ----------
    teacher : Model
        The head-cut network before the cut.
    plan : PruningPlan
        Which channels remain.
    layers : Sequence[str]
        Layers to compare.
    images : Sequence[Images]
        A few hundred training images; no labels are needed.
    batch_size : int
        Images per pass.

    Returns
    -------
    dict[str, Readout]
        By the name of the layer's normalisation, or its own if it has none.
    """
    kept = {cut.layer: cut.kept_out for cut in plan.layers}
    spoken = {teacher.trace.norm_of.get(name, name): kept.get(name) for name in layers}
    products: dict[str, torch.Tensor] = {}

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        rows = _rows(layer, output).flatten(0, -2)
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        products[name] = products.get(name, torch.zeros(())) + (rows.T @ rows).double()

    with torch.no_grad(), evaluating(teacher.module), tapped(teacher.module, spoken, hook):
        for source in images:
            for batch, _ in source.batches(batch_size):
                teacher.module(batch)
    return {name: _regressed(products[name], kept) for name, kept in spoken.items()}


def _regressed(products: torch.Tensor, kept: Sequence[int] | None) -> Readout:
    width = len(products) - 1
    own = [*(range(width) if kept is None else kept), width]
    among = products[own][:, own]
    floor = RIDGE * among.diagonal().mean().clamp(min=EPS)
    damped = among + floor * torch.eye(len(own), dtype=among.dtype)
    solved = torch.linalg.solve(damped, products[own][:, :width]).T.float()
    return Readout(solved[:, :-1].contiguous(), solved[:, -1].contiguous())


class Lesson(nn.Module):
    """The loss of one network; its parameters are the readouts, which are learnt along.

    Parameters
    ----------
    teacher : Teacher | None
        Whom to imitate; None: learn from labels alone.
    weights : torch.Tensor | None
        What the loss of each output's images counts, (outputs,); None: all alike.
    """

    def __init__(self, teacher: Teacher | None, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self._teacher = teacher
        self._weights = weights
        begin = teacher.readouts if teacher is not None else {}
        self._names = list(begin)
        self._readers = nn.ModuleList()
        for start in begin.values():
            reader = nn.Linear(start.weight.shape[1], start.weight.shape[0])
            reader.load_state_dict({"weight": start.weight, "bias": start.bias})
            self._readers.append(reader)
        self.left = 1.0
        """Share of the training that is left; with it, what channels count fades."""

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[Loss]:
        """Prepare the loss of a network: a callable (images, targets) -> loss.

        Parameters
        ----------
        module : nn.Module
            The network that learns.

        Yields
        ------
        Loss
            The loss function. A target of -1 marks an image without a label.
        """
        teacher = self._teacher
        if teacher is None:
            yield lambda images, targets: _labels(module(images), targets, self._weights)
            return
        mine: dict[str, torch.Tensor] = {}
        theirs: dict[str, torch.Tensor] = {}

        def keep_mine(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> Any:
            mine[name] = _rows(layer, output)
            # An in-place activation behind the layer must not overwrite what is compared.
            return output.clone()

        def keep_theirs(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            theirs[name] = _rows(layer, output).clone()

        def loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                wanted = teacher.model.module(images)
            given = module(images)
            total = 0.5 * _softened(given, wanted, teacher.temperature)
            total = total + 0.5 * _labels(given, targets, self._weights)
            for name, reader in zip(self._names, self._readers, strict=True):
                total = total + self.left * _distance(reader(mine[name]), theirs[name])
            return total

        teacher.model.module.eval()
        with (
            tapped(module, self._names, keep_mine),
            tapped(teacher.model.module, self._names, keep_theirs),
        ):
            yield loss


def _rows(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Put the channels last."""
    return output if isinstance(layer, nn.Linear) else output.movedim(1, -1)


def _distance(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Mean squared difference in units of the teacher's variance, so that layers count alike."""
    return (mine - theirs).square().mean() / (theirs.var() + EPS)


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

"""Contrast, capdeploy's own: keep what the layers behind a group cannot rebuild from the rest.

A loud filter may be dispensable, because its readers can be re-solved to do without it; a quiet
one may carry the only difference between two kept classes. So channels are judged by the error
that is left in the readers' outputs after the best linear repair, measured in units of what those
outputs do to the softened answers among the kept classes (a Kronecker-factored Fisher metric,
sampled without labels). Channels are removed greedily, the cheapest first, and all readers are
repaired after each removal; a channel's score is the cost accumulated by the time it goes, in a
unit that all groups share.

The readers' input covariance is taken over images of the kept classes and of dropped ones: what
tells the kept classes apart is asked of the kept ones alone, what can be rebuilt from what is
better known the more kinds of images it is learnt from. Where an output for no kept class is
wanted, *none of these* is one more answer, and images of dropped classes are asked as well.

The elimination step is that of Hassibi & Stork, Optimal brain surgeon, NIPS 1993, for blocks of
inputs; the metric that of Martens & Grosse, K-FAC, ICML 2015. Their use for choosing coupled
channels for a subset of classes is our own; docs/decisions/0009 compares it with other forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from capdeploy.errors import PlanError
from capdeploy.strategies import Consumer, Coupled, Option, Strategy, Watch


@dataclass
class _Reader:
    """A consumer during the elimination.

    Parameters
    ----------
    inverse : torch.Tensor
        (F, F) inverse of the damped input covariance of what is left.
    weight : torch.Tensor
        (F, O) weights, repaired so far, outputs scaled by what they matter.
    columns : torch.Tensor
        (n, B) inputs of each channel that is read.
    place : torch.Tensor
        (C,) row of each channel in `columns`, or -1.
    """

    inverse: torch.Tensor
    weight: torch.Tensor
    columns: torch.Tensor
    place: torch.Tensor

    def cost(self, channels: torch.Tensor) -> torch.Tensor:
        """Squared error that removing each channel alone would leave, (len(channels),)."""
        costs = torch.zeros(len(channels), dtype=torch.float64)
        read = self.place[channels] >= 0
        rows = self.columns[self.place[channels[read]]]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        weights = self.weight[rows]
        costs[read] = (weights * torch.linalg.solve(blocks, weights)).sum(dim=(1, 2))
        return costs

    def remove(self, channels: torch.Tensor) -> None:
        """Take channels away and repair the others' weights."""
        places = self.place[channels]
        rows = self.columns[places[places >= 0]].flatten()
        if not len(rows):
            return
        across = self.inverse[:, rows]
        outputs = self.weight.shape[1]
        both = torch.cat([self.weight[rows], across.T], dim=1)
        solved = torch.linalg.solve(self.inverse[rows][:, rows], both)
        self.weight -= across @ solved[:, :outputs]
        self.inverse -= across @ solved[:, outputs:]


def _reader(consumer: Consumer, damping: float, metric: str) -> _Reader:
    size = len(consumer.covariance)
    floor = consumer.covariance.diagonal().mean().clamp(min=1e-12)
    damped = consumer.covariance + damping * floor * torch.eye(size, dtype=torch.float64)
    weight = consumer.weight
    factor, failed = torch.linalg.cholesky_ex(damped)
    finite = factor.isfinite().all() & consumer.importance.isfinite().all()
    if int(failed) or not bool(finite):
        raise PlanError(
            "contrast: what a layer reads is not finite, or so alike that no filter's share can be "
            f"told; raise --strategy-arg damping, {damping:g} now"
        )
    if metric == "answers":
        values, vectors = torch.linalg.eigh(consumer.importance)
        weight = weight @ (vectors * values.clamp(min=0).sqrt())
    inverse = torch.cholesky_inverse(factor)
    return _Reader(inverse, weight.clone(), consumer.columns, consumer.place)


def _eliminate(group: Coupled) -> torch.Tensor:
    damping = float(group.options["damping"])
    metric = str(group.options["metric"])
    readers = [_reader(consumer, damping, metric) for consumer in group.consumers]
    width = len(group.consumers[0].place)
    # A few at a time in wide groups: one by one, the work would grow with the cube of the width.
    together = max(1, width // 64)
    left = torch.arange(width)
    score = torch.zeros(width, dtype=torch.float64)
    spent = 0.0
    while len(left):
        costs = torch.stack([reader.cost(left) for reader in readers]).sum(dim=0)
        order = costs.argsort(stable=True)[:together]
        for position in order.tolist():
            spent += max(0.0, float(costs[position]))
            score[left[position]] = spent
        gone = left[order]
        mask = torch.ones(len(left), dtype=torch.bool)
        mask[order] = False
        left = left[mask]
        for reader in readers if len(left) else ():
            reader.remove(gone)
    return score


STRATEGY = Strategy(
    watch=Watch.CONSUMERS,
    class_aware=True,
    per_channel=_eliminate,
    across="max",
    cumulative=True,
    options={
        "metric": Option(
            "answers",
            "outputs count by what they do to the answers, or alike",
            ("answers", "plain"),
        ),
        "temperature": Option(1.0, "of the answers whose change counts", (), 0.01, 1000.0),
        "damping": Option(0.001, "ridge, in units of the inputs' mean variance", (), 1e-8, 10.0),
    },
    summary="what a group's readers cannot rebuild from the other channels, for the kept classes",
    paper="own; greedy block elimination after Hassibi & Stork, NIPS 1993, in the metric of "
    "Martens & Grosse, ICML 2015",
)

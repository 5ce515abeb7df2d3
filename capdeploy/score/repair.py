"""What losing channels costs once the layers behind have made up for it: curves for planning.

A strategy says in which order a group's channels go, in a unit of its own; how many should go
from each group takes one unit for all. This is one: the error that is left in the readers' outputs
after the best linear repair, by what it does to the answers among the kept classes (and *none of
these*, where an output for that is wanted): their divergence to second order, half the squared
change in the Fisher metric (`observe.moments`; Martens & Grosse, K-FAC, ICML 2015), which is half
of what the strategy ``contrast`` scores.

With a group's channels in the order in which they stay, the readers' inputs are written as their
innovations: what each adds to all before it. Channels that went can be rebuilt from those that
stayed but for their innovations, so what these carry to the outputs is the error of the best
repair. With the covariance of the inputs factored as N N' (Cholesky) and the weights W, the
innovations reach the outputs through N'W: one factorisation gives the whole curve. It is what
Hassibi & Stork's elimination (Optimal brain surgeon, NIPS 1993) comes to in a given order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from capdeploy.errors import PlanError
from capdeploy.score import coupled
from capdeploy.score.judged import Judged
from capdeploy.strategies import Consumer

DAMPING = 1e-3
"""Ridge of the repair, in units of the inputs' mean variance; the default of ``contrast``."""
TEMPERATURE = 1.0
"""Of the softened answers whose change counts; likewise."""


def curves(judged: Judged, leaving: Mapping[str, Sequence[int]]) -> dict[str, tuple[float, ...]]:
    """Say what each group's readers lose as its channels go, one after another.

    Parameters
    ----------
    judged : Judged
        The head-cut network and the images that it is looked at with.
    leaving : Mapping[str, Sequence[int]]
        By group, all of its channels, the first to go in front.

    Returns
    -------
    dict[str, tuple[float, ...]]
        By group: estimated divergence of the answers, nats, when the first n channels are gone,
        n = 0..width; never falling. Groups whose readers cannot be looked at are left out.

    Raises
    ------
    PlanError
        If what a layer reads, or what its outputs matter, is not finite.
    """
    seen = coupled.look(judged, TEMPERATURE)
    found: dict[str, tuple[float, ...]] = {}
    for group in judged.groups:
        readers = coupled.readers(judged.model.module, group, seen)
        if group.name not in leaving or not readers:
            continue
        order = torch.tensor(leaving[group.name])
        lost = torch.zeros(len(order), dtype=torch.float64)
        for reader in readers:
            lost += losses(reader, order)
        # A reader that cannot be looked at, for it pads in a way of its own, harms as the others.
        lost *= coupled.read_by(judged.model.module, group) / len(readers)
        if not bool(lost.isfinite().all()):
            raise PlanError(
                f"group {group.name}: what its readers see is not finite, or its scale varies "
                "beyond what numbers hold"
            )
        found[group.name] = (0.0, *lost.cumsum(0).tolist())
    return found


def losses(reader: Consumer, leaving: torch.Tensor) -> torch.Tensor:
    """Say how much the error after the best repair grows as each channel goes.

    Parameters
    ----------
    reader : Consumer
        A layer that reads the channels.
    leaving : torch.Tensor
        (C,) int64, the channels, the first to go in front.

    Returns
    -------
    torch.Tensor
        (C,) float64, nats, in the order of `leaving`; 0 where the layer does not read the
        channel, and NaN if the moments are not finite.
    """
    covariance = reader.covariance
    if not bool(covariance.isfinite().all()):
        return torch.full((len(leaving),), float("nan"), dtype=torch.float64)
    staying = leaving.flip(0)
    read = reader.place[staying] >= 0
    columns = reader.columns[reader.place[staying[read]]]
    # What belongs to other groups stays; it can rebuild, too, and comes first.
    other = torch.ones(len(covariance), dtype=torch.bool)
    other[columns.flatten()] = False
    order = torch.cat([other.nonzero().flatten(), columns.flatten()])
    floor = covariance.diagonal().mean().clamp(min=1e-12)
    damped = covariance[order][:, order]
    damped.diagonal().add_(DAMPING * floor)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        return torch.full((len(leaving),), float("nan"), dtype=torch.float64)
    carried = factor.T @ reader.weight[order]
    error = ((carried @ reader.importance) * carried).sum(dim=1).clamp(min=0) / 2
    lost = torch.zeros(len(staying), dtype=torch.float64)
    lost[read] = error[int(other.sum()) :].reshape(len(columns), -1).sum(dim=1)
    return lost.flip(0)

"""What the loss gains when filters go one after another, in random orders."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.observe.signals import Tell, watched_layers
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.observe.trace import Trace
from capdeploy.progress import Say


def passes(seen: Trace, permutations: int) -> int:
    """Count the forward passes of one batch: one for each filter and order, one to begin with."""
    return 1 + permutations * sum(seen.widths[name] for name in watched_layers(seen).values())


def ablations(
    network: nn.Module,
    seen: Trace,
    images: torch.Tensor,
    labels: torch.Tensor,
    tell: Tell,
    *,
    orders: dict[str, list[torch.Tensor]],
    say: Say,
) -> None:
    """Feed each filter's marginal rise of each image's loss, (N, C, 1, 1), once for every order.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    seen : Trace
        Its trace.
    images : torch.Tensor
        (N, 3, H, W) float32.
    labels : torch.Tensor
        (N,) int64.
    tell : Tell
        Hears (layer, values).
    orders : dict[str, list[torch.Tensor]]
        Layer to its permutations of 0..C-1.
    say : Say
        Hears of the progress.
    """
    present: dict[str, torch.Tensor] = {}

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
        shape = [1] * output.ndim
        shape[axis] = -1
        return output * present[name].view(shape)

    def losses() -> torch.Tensor:
        return F.cross_entropy(network(images), labels, reduction="none")

    speaks_for = watched_layers(seen)
    total, done = sum(map(len, orders.values())), 0
    with torch.no_grad(), evaluating(network):
        whole = losses()
        for tap, name in speaks_for.items():
            with tapped(network, [tap], hook):
                for order in orders[name]:
                    present[tap] = torch.ones(len(order), device=images.device)
                    rise = torch.zeros(len(images), len(order), device=images.device)
                    before = whole
                    for filter_ in order.tolist():
                        present[tap][filter_] = 0.0
                        after = losses()
                        rise[:, filter_], before = after - before, after
                    tell(name, rise[..., None, None])
                    done += 1
                    say.advance(done, total, "orders of removal")

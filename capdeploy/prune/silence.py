"""Channels that answer zero without being removed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from capdeploy.observe.taps import tapped
from capdeploy.rebuild import NORMS
from capdeploy.values.group import Group


def silenced(
    module: nn.Module, gone: Sequence[tuple[Group, Sequence[int]]]
) -> AbstractContextManager[None]:
    """Make some channels of some groups answer zero.

    Parameters
    ----------
    module : nn.Module
        The network; it is as it was afterwards.
    gone : Sequence[tuple[Group, Sequence[int]]]
        Groups, and which of their channels.

    Returns
    -------
    AbstractContextManager[None]
        The channels are silent inside it, at every layer and normalisation that makes them.
    """
    masks: dict[str, list[int]] = {}
    for group, channels in gone:
        for member in group.members:
            layer = module.get_submodule(member.layer)
            if member.side == "out" and isinstance(layer, (nn.Conv2d, nn.Linear, *NORMS)):
                places = [place for channel in channels for place in member.positions[channel]]
                masks.setdefault(member.layer, []).extend(places)

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        silent = output.clone()
        axis = silent.ndim - 1 if isinstance(layer, nn.Linear) else 1
        places = torch.tensor(masks[name], dtype=torch.long, device=silent.device)
        return silent.index_fill_(axis, places, 0.0)

    return tapped(module, masks, hook)

"""Scores of whole coupled groups: from all their weights, or from the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.observe import moments, rows
from capdeploy.rebuild import can_narrow
from capdeploy.score.judged import Judged
from capdeploy.strategies import Consumer, Coupled, Strategy, Value, Watch
from capdeploy.values.group import Group, Member


def score(
    strategy: Strategy, judged: Judged, options: Mapping[str, Value]
) -> tuple[dict[str, torch.Tensor], int]:
    """Score whole groups; every layer that makes a group's channels gets the group's scores.

    Parameters
    ----------
    strategy : Strategy
        One with `per_channel`.
    judged : Judged
        What is scored.
    options : Mapping[str, Value]
        Every option of the strategy.

    Returns
    -------
    tuple[dict[str, torch.Tensor], int]
        (C,) scores by layer, and how many images were used.
    """
    per_channel = strategy.per_channel
    if per_channel is None:
        raise TypeError("a strategy that watches groups needs per_channel")
    module = judged.model.module
    contrasts = strategy.watch is Watch.CONSUMERS
    seen = look(judged, float(options["temperature"])) if contrasts else {}
    found: dict[str, torch.Tensor] = {}
    for group in judged.groups:
        weights = torch.zeros(0) if contrasts else _coupled_weights(module, group)
        consumers = readers(module, group, seen)
        if contrasts and not consumers:
            continue
        score = per_channel(Coupled(weights=weights, consumers=consumers, options=options))
        for member in group.members:
            if member.side == "out" and member.layer in judged.model.trace.filters:
                found[member.layer] = _spread(score, member, found.get(member.layer))
    return found, len(judged.images) if contrasts else 0


def _spread(score: torch.Tensor, member: Member, before: torch.Tensor | None) -> torch.Tensor:
    """Write a group's scores at a layer's own positions; several groups may share a layer."""
    last = max((max(places) for places in member.positions if places), default=-1)
    values = torch.zeros(last + 1, dtype=torch.float64)
    for channel, places in enumerate(member.positions):
        values[list(places)] = float(score[channel])
    if before is None:
        return values
    longer = torch.zeros(max(len(before), len(values)), dtype=torch.float64)
    longer[: len(values)] += values
    longer[: len(before)] += before
    return longer


def look(judged: Judged, temperature: float) -> Mapping[str, moments.Moments]:
    """Collect what every layer that reads a group is given, and what its outputs matter.

    Parameters
    ----------
    judged : Judged
        The network, its groups and the images.
    temperature : float
        Of the answers whose change counts.

    Returns
    -------
    Mapping[str, moments.Moments]
        By layer; layers that are no linear map, or too large to be seen even channel by channel,
        are left out.
    """
    module = judged.model.module
    layers: dict[str, int] = {}
    unseen: set[str] = set()
    for member in (member for group in judged.groups for member in group.readers()):
        layer = module.get_submodule(member.layer)
        if not rows.is_linear_map(layer) or member.layer not in judged.model.trace.filters:
            continue
        pool = _pool(layer, member)
        if pool == 0 or layers.setdefault(member.layer, pool) != pool:
            unseen.add(member.layer)
    layers = {name: pool for name, pool in layers.items() if name not in unseen}
    others = judged.batches(judged.others) if judged.others is not None else iter(())
    rest = None
    if judged.rejects and judged.others is not None:
        rest = moments.boundary(
            module, judged.batches(), judged.batches(judged.others), temperature=temperature
        )
    return moments.collect(
        module, layers, judged.batches(), others, seed=judged.seed, temperature=temperature,
        rest=rest,
    )  # fmt: skip


def _pool(layer: nn.Module, member: Member) -> int:
    """Say how many inputs are seen as one; 0: they cannot be seen.

    Too large to be seen whole, a layer is seen channel by channel, if every channel has as many
    inputs, side by side.
    """
    inputs = rows.inputs_of(layer)
    if inputs <= rows.LARGEST:
        return 1
    size = max(map(len, member.positions))
    for places in filter(None, member.positions):
        if places[0] % size or tuple(places) != tuple(range(places[0], places[0] + size)):
            return 0
    pool = size * (layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
    return pool if inputs % pool == 0 and inputs // pool <= rows.LARGEST else 0


def readers(
    module: nn.Module, group: Group, seen: Mapping[str, moments.Moments]
) -> tuple[Consumer, ...]:
    """Lay out all that reads a group and was seen.

    Parameters
    ----------
    module : nn.Module
        The network.
    group : Group
        One of its groups.
    seen : Mapping[str, moments.Moments]
        What `look` found.

    Returns
    -------
    tuple[Consumer, ...]
        Empty if nothing of it was seen.
    """
    return tuple(
        _consumer(module, member, seen[member.layer])
        for member in group.readers()
        if member.layer in seen
    )


def read_by(module: nn.Module, group: Group) -> int:
    """Count the layers that read a group's channels and mix them, looked at or not."""
    layers = (module.get_submodule(member.layer) for member in group.readers())
    return sum(
        isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        for layer in layers
    )


def _consumer(module: nn.Module, member: Member, seen: moments.Moments) -> Consumer:
    layer = module.get_submodule(member.layer)
    weight = layer.get_parameter("weight").detach().cpu().flatten(1).double().T
    kernel = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
    # A channel owns its kernel's inputs; behind a flatten one for each position; or none.
    columns = [
        [p * kernel + k for p in places for k in range(kernel)] for places in member.positions
    ]
    if seen.pool > 1:
        weight = weight.reshape(-1, seen.pool, weight.shape[1]).sum(dim=1)
        columns = [sorted({column // seen.pool for column in owned}) for owned in columns]
    place = torch.full((len(columns),), -1)
    read = [channel for channel, owned in enumerate(columns) if owned]
    place[read] = torch.arange(len(read))
    return Consumer(
        covariance=seen.covariance().cpu(),
        weight=weight,
        importance=seen.importance.cpu() / max(1, seen.gradients),
        columns=torch.tensor([columns[channel] for channel in read]),
        place=place,
    )


def _coupled_weights(module: nn.Module, group: Group) -> torch.Tensor:
    """Lay all weights of each channel of a group out in one row, (1, C, F, 1)."""
    parts = []
    for member in group.members:
        layer = module.get_submodule(member.layer)
        if not can_narrow(layer):  # one weight for all channels; its group stays whole
            continue
        for parameter in layer.parameters(recurse=False):
            if member.side == "in" and parameter.ndim < 2:
                continue
            rows_ = (
                parameter.detach() if member.side == "out" else parameter.detach().transpose(0, 1)
            )
            if member.side == "in" and isinstance(layer, nn.Conv2d) and layer.groups > 1:
                continue  # a depthwise filter is an output already
            rows_ = rows_.flatten(1) if rows_.ndim > 1 else rows_[:, None]
            found = [rows_[list(p)].flatten() for p in member.positions]
            # Behind a concatenation a layer has some of the channels only; zeros add nothing.
            longest = max(map(len, found))
            parts.append(torch.stack([F.pad(each, (0, longest - len(each))) for each in found]))
    return torch.cat(parts, dim=1)[None, ..., None].cpu().double()

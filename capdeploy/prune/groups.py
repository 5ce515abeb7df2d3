"""DepGraph's coupled groups as plain data: the one file that knows torch-pruning.

Fang et al., DepGraph: Towards any structural pruning, CVPR 2023. torch-pruning finds which
channels have to go together; it removes none (see docs/decisions/0004).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from capdeploy.absent import without
from capdeploy.errors import PlanError
from capdeploy.model import Model
from capdeploy.observe.taps import evaluating, requiring_grad
from capdeploy.prune import sound
from capdeploy.rebuild import can_narrow, is_depthwise
from capdeploy.values.group import Group, Member

# torch-pruning counts operations of timm's layers; we count ourselves, and timm takes seconds.
with without("timm"):
    import torch_pruning as tp
    from torch_pruning.dependency import index_mapping


def find(model: Model) -> tuple[Group, ...]:
    """Find every group of a network but that of the head's outputs.

    Parameters
    ----------
    model : Model
        The network; it is left as it was.

    Returns
    -------
    tuple[Group, ...]
        In order of execution of their first layer.

    Raises
    ------
    PlanError
        If torch-pruning cannot trace the network.
    """
    module = model.module
    names = {layer: name for name, layer in module.named_modules()}
    order = {name: position for position, name in enumerate(model.trace.filters)}
    try:
        # Frozen layers drop out of an autograd graph silently, so nothing is frozen meanwhile.
        with evaluating(module), requiring_grad(module, True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = _trace(module, model.example())
    except Exception as error:  # torch-pruning fails in every way on what it cannot follow
        raise PlanError(
            f"torch-pruning cannot find the groups of {model.checkpoint.architecture}: "
            f"{type(error).__name__}: {error}"
        ) from error
    groups = [_plain(group, names, order) for group in raw]
    wanted = [group for group in groups if not _is_answer(group, model.head)]
    blocks = _whole_blocks(wanted, module)
    found = _told_apart(sorted(blocks, key=lambda group: order[group.name]))
    return sound.checked(model, found)


def _told_apart(groups: list[Group]) -> tuple[Group, ...]:
    """Name groups that begin at one layer (its channels go two ways) by another of their makers."""
    taken = {group.name for group in groups}
    seen: set[str] = set()
    found: list[Group] = []
    for group in groups:
        name = group.name
        if name in seen:
            free = (maker for maker in group.makers if maker not in taken)
            name = next(free, f"{name}#{len(found) + 1}")
            taken.add(name)
        seen.add(name)
        found.append(group.model_copy(update={"name": name}))
    return tuple(found)


def _trace(module: nn.Module, example: torch.Tensor) -> list[Any]:
    """Let DepGraph find the groups."""
    try:
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=(example,))
        return list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    except ZeroDivisionError:
        # torch-pruning 1.6 cannot follow a channel shuffle's reshape (ShuffleNetV2). Without its
        # index maps some groups come out wrong, which `sound` finds and protects, and for some
        # layers there is none.
        with mock.patch.object(index_mapping, "update_reshape_index_mapping", _leave):
            graph = tp.DependencyGraph().build_dependency(module, example_inputs=(example,))
            return list(_one_by_one(graph, module))


def _one_by_one(graph: Any, module: nn.Module) -> Iterator[Any]:
    """Ask for the group of every layer that is in none yet; some cannot be told."""
    seen: set[nn.Module] = set()
    for layer in module.modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or layer in seen or is_depthwise(layer):
            continue
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
        except IndexError:
            continue
        seen |= {
            item.dep.target.module
            for item in group
            if graph.is_out_channel_pruning_fn(item.dep.handler)
        }
        yield group


def _leave(graph: Any, node: Any) -> None:
    """Leave a reshape without an index map."""


def _whole_blocks(groups: list[Group], module: nn.Module) -> list[Group]:
    """Let grouped convolutions lose whole groups: tie what one reads to what it makes."""
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.groups == 1 or is_depthwise(layer):
            continue
        read = _owner(groups, name, "in")
        made = _owner(groups, name, "out")
        if read is None or made is None or read is made or max(read.unit, made.unit) > 1:
            reason = f"the grouped convolution {name} ties it to itself or to several others"
            groups = [
                group if group not in (read, made)
                else group.model_copy(update={"obstacle": reason})
                for group in groups
            ]  # fmt: skip
            continue
        blocks = layer.groups
        groups = [group for group in groups if group not in (read, made)]
        groups.append(
            read.model_copy(
                update={
                    "width": blocks,
                    "unit": made.width // blocks,
                    "members": (*_by_block(read, name, "in", blocks),
                                *_by_block(made, name, "out", blocks)),
                    "makers": (*read.makers, *made.makers),
                    "residual": read.residual or made.residual,
                    "obstacle": read.obstacle or made.obstacle,
                }
            )
        )  # fmt: skip
    return groups


def _owner(groups: list[Group], layer: str, side: str) -> Group | None:
    owners = [
        group for group in groups
        if any(member.layer == layer and member.side == side for member in group.members)
    ]  # fmt: skip
    return owners[0] if len(owners) == 1 else None


def _by_block(group: Group, layer: str, side: str, blocks: int) -> Iterator[Member]:
    """Gather a group's channels by the convolution group that they belong to."""
    own = next(m for m in group.members if m.layer == layer and m.side == side)
    each = group.width // blocks
    for member in group.members:
        positions: list[set[int]] = [set() for _ in range(blocks)]
        for channel, places in enumerate(member.positions):
            positions[own.positions[channel][0] // each].update(places)
        yield member.model_copy(
            update={"positions": tuple(tuple(sorted(places)) for places in positions)}
        )


def _is_answer(group: Group, head: str) -> bool:
    return any(member.layer == head and member.side == "out" for member in group.members)


def _plain(raw: Any, names: dict[nn.Module, str], order: dict[str, int]) -> Group:
    width = len(raw[0].idxs)
    members: dict[tuple[str, str], Member] = {}
    obstacle = None
    adds = False
    for item in raw:
        layer = item.dep.target.module
        adds = adds or "AddBackward" in item.dep.target.name
        name = names.get(layer)
        if name is None or not _has_weights(layer):
            # torch-pruning's own stand-ins for functions; bare parameters are coupled too.
            if isinstance(layer, nn.Parameter):
                obstacle = "a bare parameter is coupled to it"
            continue
        if not can_narrow(layer):
            obstacle = f"{_describe(layer)} {name} is coupled to it"
        side = "in" if "in_channels" in item.dep.handler.__name__ else "out"
        key = (name, side)
        found = _positions(item, width)
        members[key] = Member(layer=name, side=side, positions=_merge(members.get(key), found))
    makers = sorted(
        (name for name, side in members if side == "out" and name in order), key=order.__getitem__
    )
    full = tuple(name for name in makers if not _depthwise_name(name, names))
    return Group(
        name=makers[0],
        width=width,
        members=tuple(members.values()),
        makers=full or tuple(makers),
        residual=adds and len(makers) > 1,
        obstacle=obstacle,
    )


def _positions(item: Any, width: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(width)]
    for position, channel in zip(item.idxs, item.root_idxs, strict=True):
        found[channel].append(position)
    return found


def _merge(member: Member | None, found: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    before = member.positions if member is not None else ((),) * len(found)
    return tuple(tuple(sorted({*old, *new})) for old, new in zip(before, found, strict=True))


def _has_weights(layer: object) -> bool:
    if not isinstance(layer, nn.Module):
        return False
    return any(True for _ in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))


def _describe(layer: nn.Module) -> str:
    return f"the {type(layer).__name__} layer"


def _depthwise_name(name: str, names: dict[nn.Module, str]) -> bool:
    return any(is_depthwise(layer) for layer, known in names.items() if known == name)

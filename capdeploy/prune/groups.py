"""DepGraph's coupled groups as plain data: the one file that knows torch-pruning.

Fang et al., DepGraph: Towards any structural pruning, CVPR 2023. torch-pruning finds which
channels have to go together; it removes none (see docs/decisions/0004).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch_pruning as tp
from torch import nn

from capdeploy.errors import PlanError
from capdeploy.model import Model
from capdeploy.observe.taps import evaluating, requiring_grad
from capdeploy.rebuild import can_narrow, is_depthwise
from capdeploy.values.group import Group, Member


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
            graph = tp.DependencyGraph().build_dependency(module, example_inputs=(model.example(),))
            raw = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    except (RuntimeError, ZeroDivisionError, ValueError, IndexError, KeyError) as error:
        raise PlanError(
            f"torch-pruning cannot find the groups of {model.checkpoint.architecture}: "
            f"{type(error).__name__}: {error}"
        ) from error
    groups = [_plain(group, names, order) for group in raw]
    wanted = [group for group in groups if not _is_answer(group, model.head)]
    return tuple(sorted(wanted, key=lambda group: order[group.name]))


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
        residual=adds and len(full) > 1,
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
    if isinstance(layer, nn.Conv2d):
        return "the grouped convolution"
    return f"the {type(layer).__name__} layer"


def _depthwise_name(name: str, names: dict[nn.Module, str]) -> bool:
    return any(is_depthwise(layer) for layer, known in names.items() if known == name)

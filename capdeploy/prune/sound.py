"""Whether cutting a group really removes its channels and changes nothing else.

A network in which some channels answer zero and one without them must answer alike. This is tried
on one random input for all groups at once, and, only if they differ, for halves of the groups, so
that the ones to blame are found; those are left whole, with the reason. What is left is tried
together once more. Nothing is taken on trust
from the graph: padded shortcuts, shuffles and whatever else a tracer misreads end here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from capdeploy.errors import CapdeployError
from capdeploy.model import Model
from capdeploy.observe.taps import evaluating
from capdeploy.prune.silence import silenced
from capdeploy.prune.translate import layer_cuts
from capdeploy.rebuild import narrow
from capdeploy.values.group import Group
from capdeploy.values.plan import GroupCut

TOLERANCE = 1e-3
"""Largest difference, in units of the largest answer: far above rounding, far below a mistake."""
REASON = "cutting it would change what stays (a padded or shuffled shortcut)"


def checked(model: Model, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Give every group that cannot be cut soundly its obstacle.

    Parameters
    ----------
    model : Model
        The network; it is left as it was.
    groups : Sequence[Group]
        What DepGraph says belongs together.

    Returns
    -------
    tuple[Group, ...]
        The same groups; the unsound ones have an obstacle.
    """
    free = [group for group in groups if group.obstacle is None and group.width > 1]
    images = model.example(1)
    bad: set[str] = set()
    if free and not _alike(model, free, images):
        bad = _unsound(model, free, images)
        bad |= _clashing(model, [group for group in free if group.name not in bad], images)
    return tuple(
        group.model_copy(update={"obstacle": REASON}) if group.name in bad else group
        for group in groups
    )


def _unsound(model: Model, groups: Sequence[Group], images: torch.Tensor) -> set[str]:
    if not groups or _alike(model, groups, images):
        return set()
    if len(groups) == 1:
        return {groups[0].name}
    half = len(groups) // 2
    return _unsound(model, groups[:half], images) | _unsound(model, groups[half:], images)


def _clashing(model: Model, groups: Sequence[Group], images: torch.Tensor) -> set[str]:
    """Name the groups that are sound alone, but not with those before them."""
    together: list[Group] = []
    if groups and not _alike(model, groups, images):
        for group in groups:
            if _alike(model, [*together, group], images):
                together.append(group)
        return {group.name for group in groups if group not in together}
    return set()


def _half(group: Group) -> tuple[int, ...]:
    """Draw channels to remove; a regular pattern could fit a mistake that is as regular.

    Every other channel of two maps that are concatenated is the same in both of them.
    """
    order = np.random.default_rng(group.width).permutation(group.width).tolist()
    anchors = {next(channel for channel in order if channel in part) for part in group.parts()}
    free = [channel for channel in order[1:] if channel not in anchors]
    return tuple(sorted(free[: max(1, group.width // 2)]))


def _alike(model: Model, groups: Sequence[Group], images: torch.Tensor) -> bool:
    """Try: about half the channels of every group removed, against the same channels at zero."""
    gone = {group.name: _half(group) for group in groups}
    cuts = [
        GroupCut(
            group=group.name,
            members=tuple(map(str, group.members)),
            width=group.width,
            kept=tuple(sorted({*range(group.width)} - {*gone[group.name]})),
        )
        for group in groups
    ]
    module = model.copy_module().eval()
    try:
        narrow(module, layer_cuts(groups, cuts, model.geometry, None))
        with torch.no_grad(), evaluating(model.module):
            found = module(images)
            with silenced(model.module, [(group, gone[group.name]) for group in groups]):
                expected = model.module(images)
    except (RuntimeError, IndexError, ValueError, CapdeployError):
        return False
    if found.shape != expected.shape:
        return False
    largest = float(expected.abs().max().clamp(min=1e-12))
    return float((found - expected).abs().max()) <= TOLERANCE * largest

"""How much each group's loss grows as it shrinks: measured, one group at a time.

The harm of a width is the mean Kullback-Leibler divergence of the answers from those of the whole
network when the group's lowest channels answer zero, all else being whole. No labels are needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from capdeploy import workplace
from capdeploy.errors import PlanError
from capdeploy.model import Model
from capdeploy.observe.taps import evaluating
from capdeploy.progress import Say
from capdeploy.prune.silence import silenced
from capdeploy.prune.votes import group_scores, is_scored, ranked
from capdeploy.samples import Images
from capdeploy.values.group import Group
from capdeploy.values.scores import FilterScores
from capdeploy.values.sensitivity import LEVELS

Curves = dict[str, tuple[float, ...]]
METHOD = 2  # raised when curves come about in another way: stored ones are then measured anew


def curves(
    model: Model,
    groups: Sequence[Group],
    scores: FilterScores,
    images: Images,
    *,
    batch_size: int,
    cache: Path | None,
    say: Say,
) -> Curves:
    """Measure the harm of every width of every group.

    Parameters
    ----------
    model : Model
        The head-cut network; it is left as it was.
    groups : Sequence[Group]
        Its groups; those that no layer of is scored are left out.
    scores : FilterScores
        The order in which channels go.
    images : Images
        A few hundred training images.
    batch_size : int
        Images per pass.
    cache : Path | None
        Folder in which curves are kept between runs; None: measure anew.
    say : Say
        Hears of the progress.

    Returns
    -------
    Curves
        By group: harm of losing n channels in nats, n = 0..width; never falling.
    """
    scored = [group for group in groups if is_scored(group, scores)]
    batches = [batch.to(model.device) for batch, _ in images.batches(batch_size)]
    with torch.no_grad(), evaluating(model.module):
        whole = [F.log_softmax(model.module(batch), dim=1) for batch in batches]
        file = cache / f"sensitivity-{_key(model, scored, scores, whole)}.json" if cache else None
        stored = workplace.recall(file) if file is not None else None
        if (kept := _curves(stored, scored)) is not None:
            return kept
        found: Curves = {}
        for done, group in enumerate(scored):
            found[group.name] = _curve(model.module, group, scores, batches, whole)
            say.advance(done + 1, len(scored), f"sensitivity of {group.name}")
    if file is not None:
        workplace.remember(file, found)
    return found


def _curves(stored: Any, scored: Sequence[Group]) -> Curves | None:
    """Take what was kept for the curves of these groups, if it is that."""
    if not isinstance(stored, dict):
        return None
    try:
        found = {group.name: tuple(map(float, stored[group.name])) for group in scored}
    except (KeyError, TypeError, ValueError):
        return None
    whole = all(len(found[group.name]) == group.width + 1 for group in scored)
    return found if whole and len(stored) == len(found) else None


def _curve(
    module: nn.Module,
    group: Group,
    scores: FilterScores,
    batches: Sequence[torch.Tensor],
    whole: Sequence[torch.Tensor],
) -> tuple[float, ...]:
    value = group_scores(group, scores)
    lowest = ranked(group, value)[::-1]  # as they would go
    counts, harms = [0], [0.0]
    for count in sorted({round(level * group.width) for level in LEVELS} - {0}):
        with silenced(module, [(group, lowest[:count])]):
            divergence = [
                F.kl_div(F.log_softmax(module(batch), dim=1), target, reduction="sum",
                         log_target=True)
                for batch, target in zip(batches, whole, strict=True)
            ]  # fmt: skip
        harm = float(sum(divergence)) / sum(map(len, batches))
        if not math.isfinite(harm):  # the last level was the one before
            break
        counts.append(count)
        harms.append(max(harms[-1], harm))
    if not counts[1:]:
        raise PlanError(
            f"group {group.name}: without a few of its channels the network's answers are not "
            "finite; use another --allocation"
        )
    # Beyond the last level nothing was measured; losing the rest is made to look much worse.
    counts.append(group.width + 1)
    harms.append(2 * harms[-1] + 1e-9)
    curve = np.interp(range(group.width + 1), counts, harms)
    return tuple(float(harm) for harm in curve)


def _key(
    model: Model, groups: Sequence[Group], scores: FilterScores, answers: Sequence[torch.Tensor]
) -> str:
    """Hash all that the curves depend on; the answers stand for images and code alike."""
    state = hashlib.sha256(scores.to_json().encode())
    for value in (*model.module.state_dict().values(), *answers):
        state.update(value.detach().cpu().numpy().tobytes())
    state.update(repr((METHOD, LEVELS, groups)).encode())
    return state.hexdigest()[:20]

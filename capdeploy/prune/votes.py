"""One score for each channel of a group, from the scores of its coupled layers."""

from __future__ import annotations

from collections.abc import Sequence

from capdeploy.errors import PlanError
from capdeploy.values.group import Group, Member
from capdeploy.values.scores import FilterScores


def group_scores(group: Group, scores: FilterScores) -> list[float]:
    """Combine the scores of a group's coupled layers into one score per channel.

    For ``mean``, each layer is brought to a mean magnitude of 1 first, so that no layer outvotes
    the others by its scale. For ``max``, the scores must be comparable as they are, as ranks are.

    Parameters
    ----------
    group : Group
        The coupled layers.
    scores : FilterScores
        Every filter's score.

    Returns
    -------
    list[float]
        One score per channel of the group; higher = keep.

    Raises
    ------
    PlanError
        If no layer of the group is scored.
    """
    votes: list[list[float | None]] = []
    for member in group.members:
        values = scores.of(member.layer) if member.side == "out" else None
        if values is not None:
            votes.append(_votes(member, values, scores.across))
    if not votes:
        raise PlanError(f"no layer of group {group.name} is scored")
    return [_joined(channel, scores.across) for channel in zip(*votes, strict=True)]


def is_scored(group: Group, scores: FilterScores) -> bool:
    """Tell whether any layer that makes a group's channels has scores."""
    return any(
        scores.of(member.layer) is not None for member in group.members if member.side == "out"
    )


def _joined(votes: tuple[float | None, ...], across: str) -> float:
    """Join the votes of the layers that have a channel; behind a concatenation not all have."""
    cast = [vote for vote in votes if vote is not None]
    if not cast:
        return 0.0
    return max(cast) if across == "max" else sum(cast) / len(cast)


def _votes(member: Member, values: tuple[float, ...], across: str) -> list[float | None]:
    """Say what a layer says of each channel, which may be several of its filters."""
    if across == "max":
        return [max((values[place] for place in places), default=None)
                for places in member.positions]  # fmt: skip
    size = sum(map(abs, values)) / len(values) or 1.0
    return [
        sum(values[place] for place in places) / (size * len(places)) if places else None
        for places in member.positions
    ]


def ranked(group: Group, value: Sequence[float]) -> list[int]:
    """Order a group's channels, the first to stay in front; a larger drop removes a superset.

    The best channel of each part comes first, for no layer can lose all of its own; equal scores
    are settled by position.

    Parameters
    ----------
    group : Group
        The coupled layers.
    value : Sequence[float]
        One score per channel; higher = keep.

    Returns
    -------
    list[int]
        All channels.
    """
    order = sorted(range(group.width), key=lambda channel: (-value[channel], channel))
    anchors = {next(channel for channel in order if channel in part) for part in group.parts()}
    return sorted(order, key=lambda channel: channel not in anchors)


def normalised(scores: Sequence[float]) -> tuple[float, ...]:
    """Turn one group's scores into a harm curve that can be compared with other groups'.

    The scores are brought to a mean magnitude of 1 within the group (*mean normalisation*), so
    that neither a layer's scale nor its width decides: were they brought to a sum of 1, as
    relevance is, each filter of a wide layer would look worthless and wide layers would go first.

    Parameters
    ----------
    scores : Sequence[float]
        One per channel.

    Returns
    -------
    tuple[float, ...]
        Harm of losing the n lowest, n = 0..len(scores).

    Examples
    --------
    >>> normalised([1.0, 3.0])
    (0.0, 0.5, 2.0)
    """
    ordered = sorted(scores)
    lowest = min(0.0, ordered[0])
    size = sum(score - lowest for score in ordered) / len(ordered) or 1.0
    harm = [0.0]
    for score in ordered:
        harm.append(harm[-1] + (score - lowest) / size)
    return tuple(harm)

"""One score for each channel of a group, from the scores of its coupled layers."""

from __future__ import annotations

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
    votes = []
    for member in group.members:
        values = scores.of(member.layer) if member.side == "out" else None
        if values is not None:
            votes.append(_votes(member, values, scores.across))
    if not votes:
        raise PlanError(f"no layer of group {group.name} is scored")
    if scores.across == "max":
        return [max(channel) for channel in zip(*votes, strict=True)]
    return [sum(channel) / len(votes) for channel in zip(*votes, strict=True)]


def _votes(member: Member, values: tuple[float, ...], across: str) -> list[float]:
    size = sum(map(abs, values)) / len(values) or 1.0
    scale = 1.0 if across == "max" else size
    return [
        sum(values[position] for position in positions) / (scale * max(1, len(positions)))
        for positions in member.positions
    ]

"""Look at a checkpoint without data: what it is, what it costs, what can be cut."""

from __future__ import annotations

from pathlib import Path

from capdeploy import model, weights
from capdeploy.prune import groups
from capdeploy.stages.inputs import IMAGENET, stored
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.inspection import Inspection, Whole
from capdeploy.weights import Reading


def inspect(
    file: Path, architecture: Architecture | None, size: tuple[int, int] | None, reading: Reading
) -> Inspection:
    """Open a checkpoint and find its groups.

    Parameters
    ----------
    file : Path
        The file of weights.
    architecture : Architecture | None
        Its network; None: what the file says itself, or found by the weights.
    size : tuple[int, int] | None
        Height and width of the input; None: what the checkpoint says, or 224 x 224.
    reading : Reading
        Where in the file the weights are.

    Returns
    -------
    Inspection
        Cost at that size, groups, and what stays whole with its reason.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely or its weights do not fit.
    ArchitectureError
        If the network is not recognised or cannot be built.
    """
    origin = weights.read_origin(file)
    preprocessing = origin.input if origin is not None else IMAGENET
    if size is not None:
        sized = preprocessing.model_dump() | {"height": size[0], "width": size[1]}
        preprocessing = Preprocessing.from_plain(sized, source="--input-size")
    known = architecture or stored(file, origin, trust=reading.trust)
    opened = model.open(file, known, preprocessing, reading)
    found = groups.find(opened)
    free = [group for group in found if group.obstacle is None]
    return Inspection(
        checkpoint=opened.checkpoint,
        recognised=known is None,
        cost=opened.geometry.cost(),
        groups=len(free),
        filters=sum(group.width * group.unit for group in free),
        whole=tuple(
            Whole(group=group.name, reason=group.obstacle)
            for group in found if group.obstacle is not None
        ),
    )  # fmt: skip

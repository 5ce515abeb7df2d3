"""Which known network a file of weights belongs to, by the names and shapes of its tensors."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch

from capdeploy import rebuild
from capdeploy.errors import ArchitectureError, MissingExtraError
from capdeploy.values.checkpoint import Architecture
from capdeploy.weightless import without_memory
from capdeploy.weights import State
from capdeploy.zoo import SOURCES

Shapes = dict[str, torch.Size]
# Checkpoints older than PyTorch 0.4.1 have no such counters.
COUNTER = "num_batches_tracked"
LAST = "timm"
ALIKE = 0.3  # of the kinds of tensor names; a family has many variants
FAMILIES = 5


def recognise(state: State) -> Architecture:
    """Find the one network whose tensors have these names and shapes, the head's width aside.

    Parameters
    ----------
    state : State
        Parameter name to tensor.

    Returns
    -------
    Architecture
        The network.

    Raises
    ------
    ArchitectureError
        If no network fits, or several do.
    """
    fits: list[Architecture] = []
    nearest, most = "", 0
    for source in sorted(SOURCES.names(), key=LAST.__eq__):
        if fits and source == LAST:
            break  # timm has its own copies of torchvision's networks
        for architecture, shapes in _known(source, state):
            auxiliary = SOURCES.load(source).auxiliary(architecture.name)
            found = _counted(state, auxiliary)
            if _fits(found, shapes):
                fits.append(architecture)
            alike = sum(shape == shapes.get(name) for name, shape in found.items())
            if alike > most:
                nearest, most = str(architecture), alike
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ArchitectureError(
            f"the weights fit several networks: {', '.join(map(str, fits))}; name one with --arch"
        )
    found = _counted(state)
    close = (
        f"the nearest is {nearest}, which has {most} of its {len(found)} tensors"
        if most
        else f"its first tensor is {next(iter(found), 'none')}"
    )
    raise ArchitectureError(
        f"the weights fit no network that capdeploy knows: {close}; name yours with --arch "
        "package.module:callable"
    )


def _known(source: str, state: State) -> Iterator[tuple[Architecture, Shapes]]:
    try:
        shelf = SOURCES.load(source)
    except MissingExtraError:
        return
    families = shelf.families()
    if not families:
        yield from _built(source, shelf.names())
    words = _words(state)
    # One member tells how a family calls its tensors; most families end here.
    ranked = []
    for names in families.values():
        sample = next(_built(source, sorted(names, key=len)[:2]), None)
        shared = len(words & _words(sample[1])) if sample is not None else 0
        if shared >= ALIKE * len(words):
            ranked.append((shared, names))
    for _, names in sorted(ranked, reverse=True)[:FAMILIES]:
        yield from _built(source, names)


def _built(source: str, names: Sequence[str]) -> Iterator[tuple[Architecture, Shapes]]:
    for name in names:
        shapes = _shapes(source, name)
        if shapes is not None:
            yield Architecture(source=source, name=name), shapes


@functools.cache
def _shapes(source: str, name: str) -> Shapes | None:
    """Read a network's tensors; building it takes a while, and there are hundreds."""
    try:
        with without_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how fresh weights will be drawn
            network = rebuild.build(Architecture(source=source, name=name), None)
    except (RuntimeError, NotImplementedError, ArchitectureError):
        return None
    return _counted(network.state_dict())


def _words(names: Iterable[str]) -> set[str]:
    """Read how tensors are called, whatever their number."""
    return {re.sub(r"\d+", "#", name) for name in names if not name.endswith(COUNTER)}


def _counted(state: State, auxiliary: tuple[str, ...] = ()) -> Shapes:
    return {
        name: value.shape
        for name, value in state.items()
        if not name.endswith(COUNTER) and not name.startswith(auxiliary)
    }


def _fits(found: Shapes, known: Shapes) -> bool:
    """Tell whether all tensors agree, but for the first axis of those of one head."""
    if found.keys() != known.keys():
        return False
    other = [name for name, shape in found.items() if shape != known[name]]
    if any(not found[name] or found[name][1:] != known[name][1:] for name in other):
        return False
    places = {name.rpartition(".")[0] for name in other}
    widths = {found[name][0] for name in other}
    return len(widths) <= 1 and len(places) <= 1

"""Which known network a file of weights belongs to, by the names and shapes of its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn

from capdeploy import rebuild
from capdeploy.errors import ArchitectureError
from capdeploy.values.checkpoint import Architecture
from capdeploy.weights import State
from capdeploy.zoo import SOURCES

Shapes = dict[str, torch.Size]
# Checkpoints older than PyTorch 0.4.1 have no such counters.
COUNTER = "num_batches_tracked"


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
    found = _counted({name: value.shape for name, value in state.items()})
    fits: list[Architecture] = []
    nearest, most = "", 0
    for architecture, shapes in _known():
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
    close = (
        f"the nearest is {nearest}, which has {most} of its {len(found)} tensors"
        if most
        else f"its first tensor is {next(iter(found), 'none')}"
    )
    raise ArchitectureError(
        f"the weights fit no network that capdeploy knows: {close}; name yours with --arch "
        "package.module:callable"
    )


def _known() -> Iterator[tuple[Architecture, Shapes]]:
    for source in SOURCES.names():
        for name in SOURCES.load(source).names():
            architecture = Architecture(source=source, name=name)
            try:
                with _without_memory(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about how fresh weights will be drawn
                    network = rebuild.build(architecture, None)
            except (RuntimeError, NotImplementedError, ArchitectureError):
                continue
            yield (
                architecture,
                _counted({name: value.shape for name, value in network.state_dict().items()}),
            )


@contextmanager
def _without_memory() -> Iterator[None]:
    """Let networks be built whose parameters have shapes and no memory.

    ``torch.device("meta")`` would take the numbers too that RegNets compute their widths from.
    """
    register = nn.Module.register_parameter

    def moved(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, None if param is None else nn.Parameter(param.to("meta")))

    with mock.patch.object(nn.Module, "register_parameter", moved):
        yield


def _counted(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}


def _fits(found: Shapes, known: Shapes) -> bool:
    """Tell whether all tensors agree, but for the first axis of those of one head."""
    if found.keys() != known.keys():
        return False
    other = [name for name, shape in found.items() if shape != known[name]]
    if any(not found[name] or found[name][1:] != known[name][1:] for name in other):
        return False
    places = {name.rpartition(".")[0] for name in other}
    widths = {found[name][0] for name in other}
    # An auxiliary head (GoogLeNet, Inception) is as wide as the head itself.
    return len(widths) <= 1 and len(places) <= 3

"""Model = module + checkpoint + trace; `open` makes one from a file of weights."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capdeploy.bundle import digest
from capdeploy.errors import ArchitectureError
from capdeploy.fit import fit
from capdeploy.observe.cost import geometry
from capdeploy.observe.trace import Trace, trace
from capdeploy.recognise import recognise
from capdeploy.values.checkpoint import Architecture, Checkpoint, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.cost import NetworkGeometry
from capdeploy.weights import Reading, State, read_state

PACKED = ("qkv", "in_proj", "to_qkv", "q_proj", "kv")
"""What implementations of self-attention call the layer that makes queries, keys and values."""


@dataclass(frozen=True)
class Model:
    """A network and what is known about it. Rooms pass copies on; none is altered.

    Parameters
    ----------
    module : nn.Module
        The network.
    checkpoint : Checkpoint
        Where its weights come from.
    preprocessing : Preprocessing
        What it wants to see.
    trace : Trace
        What runs in a forward pass at that input size.
    classes : ClassSubset | None
        The kept classes, once they are chosen.
    head_cut : bool
        Whether the outputs are the kept classes, in their order.
    """

    module: nn.Module
    checkpoint: Checkpoint
    preprocessing: Preprocessing
    trace: Trace
    classes: ClassSubset | None = None
    head_cut: bool = False

    @property
    def head(self) -> str:
        """Name of the layer that makes the answer."""
        return self.trace.head

    @property
    def reject_output(self) -> int | None:
        """The output that stands for none of the kept classes; None if there is none."""
        kept = len(self.classes) if self.classes is not None else 0
        return kept if self.head_cut and self.trace.outputs == kept + 1 else None

    @property
    def geometry(self) -> NetworkGeometry:
        """Cost of every layer at any width."""
        return geometry(self.module, self.trace)

    @property
    def device(self) -> torch.device:
        """Where the network is; images are brought there."""
        return device_of(self.module)

    def example(self, batch: int = 2) -> torch.Tensor:
        """Make a fixed random input of the right shape, (batch, 3, H, W), where the network is."""
        return example(self.preprocessing, batch).to(self.device)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Map labels 0..k-1 of the kept classes to outputs of this network."""
        if self.head_cut or self.classes is None:
            return labels
        return torch.tensor(self.classes.kept)[labels]

    def with_module(self, module: nn.Module, **changes: Any) -> Model:
        """Return a model of another module of the same origin, traced anew."""
        fresh = trace(module, example(self.preprocessing).to(device_of(module)))
        return replace(self, module=module, trace=fresh, **changes)

    def on(self, device: str | torch.device) -> Model:
        """Return the model on another device, ``cpu`` or ``cuda``; itself if it is there."""
        if self.device.type == torch.device(device).type:
            return self
        return self.with_module(self.copy_module().to(device))

    def copy_module(self) -> nn.Module:
        """Return a deep copy of the module, free to be changed."""
        return copy.deepcopy(self.module)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network's first tensor; the CPU if it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def example(preprocessing: Preprocessing, batch: int = 2) -> torch.Tensor:
    """Make a fixed random input, (batch, 3, H, W) float32."""
    shape = (batch, 3, preprocessing.height, preprocessing.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def open(  # noqa: A001 the room's verb: model.open
    file: Path,
    architecture: Architecture | None,
    preprocessing: Preprocessing,
    reading: Reading | None = None,
) -> Model:
    """Open a checkpoint into an architecture.

    Parameters
    ----------
    file : Path
        torch or safetensors file with a state dict, bare or under a usual key.
    architecture : Architecture | None
        The network that the weights belong to; None: found by their names and shapes.
    preprocessing : Preprocessing
        What the network wants to see; gives the input size.
    reading : Reading | None
        Where in the file the weights are, if not in the usual place.

    Returns
    -------
    Model
        The network in evaluation mode, in float32, with as many outputs as its weights have.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely or its weights do not fit.
    ArchitectureError
        If the architecture cannot be built, has no head, or is not given and not recognised.
    """
    reading = reading or Reading()
    raw = read_state(file, reading)
    architecture = architecture or recognise(raw)
    fitted = fit(raw, architecture, file, reading.ignored)
    _refuse_attention(fitted.module, architecture)
    seen = trace(fitted.module, example(preprocessing, 1))
    checkpoint = Checkpoint(
        file=file.name,
        sha256=digest(file),
        architecture=architecture,
        outputs=seen.outputs,
        stored_dtype=_main_dtype(raw),
        input=preprocessing,
        unused=fitted.unused,
        absent=fitted.absent,
    )
    return Model(fitted.module, checkpoint, preprocessing, seen)


def _refuse_attention(module: nn.Module, architecture: Architecture) -> None:
    """Stop at a vision transformer: what attention costs is not counted, nor its heads cut."""
    for name, part in module.named_modules():
        packed = isinstance(part, nn.Linear) and name.rpartition(".")[2] in PACKED
        if packed or isinstance(part, nn.MultiheadAttention):
            raise ArchitectureError(
                f"{architecture} has self-attention ({name}); capdeploy compresses convolutional "
                "networks, not vision transformers"
            )


def _main_dtype(state: State) -> str:
    floating = [str(value.dtype) for value in state.values() if value.is_floating_point()]
    kinds = Counter(floating) or Counter(["none"])
    return kinds.most_common(1)[0][0].removeprefix("torch.")


def require_classes(model: Model) -> ClassSubset:
    """Return the chosen classes of a model that must have some."""
    if model.classes is None:
        raise ArchitectureError("the classes of the model are not chosen yet")
    return model.classes

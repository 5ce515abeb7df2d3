"""Put weights into an architecture: the head's width, auxiliary heads, and what does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

from capdeploy import rebuild
from capdeploy.errors import ArchitectureError, CheckpointError
from capdeploy.values.checkpoint import Architecture
from capdeploy.weightless import without_memory
from capdeploy.weights import State
from capdeploy.zoo import SOURCES


@dataclass(frozen=True)
class Fitted:
    """A network with its weights, in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        The network.
    unused : tuple[str, ...]
        Tensors of the file that it has no use for: auxiliary heads, and keys to be ignored.
    absent : tuple[str, ...]
        Its own tensors that keep fresh values, because the user said so.
    """

    module: nn.Module
    unused: tuple[str, ...]
    absent: tuple[str, ...]


def fit(
    raw: State, architecture: Architecture, file: Path, ignored: tuple[str, ...] = ()
) -> Fitted:
    """Build an architecture as wide as the weights' head, and load them in float32.

    Parameters
    ----------
    raw : State
        Parameter name to tensor.
    architecture : Architecture
        The network that they belong to.
    file : Path
        Where they come from, for messages.
    ignored : tuple[str, ...]
        Patterns of names that may be missing, unexpected or of another kind.

    Returns
    -------
    Fitted
        The network, and what was left out.

    Raises
    ------
    CheckpointError
        If the weights do not fit, or are not finite.
    ArchitectureError
        If the architecture cannot be built.
    """
    auxiliary = SOURCES.load(architecture.source).auxiliary(architecture.name)
    empty = [name for name, value in raw.items() if value.is_meta]
    if empty:
        raise CheckpointError(
            f"checkpoint {file}: {empty[0]} has a shape and no values; save the real weights"
        )
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in raw.items()
        if not (name.startswith(auxiliary) or _idle(name, value))
    }
    outputs = _outputs(state, architecture)
    module = _built(architecture, outputs)
    fitting, unused, absent = _compared(state, module, architecture, file, ignored)
    loaded = _loaded(module, fitting)
    if loaded is None:
        loaded = rebuild.build(architecture, outputs)
        loaded.load_state_dict(rebuild.up_to_date(fitting, loaded), strict=False)
    dropped = [name for name in raw if name.startswith(auxiliary)]
    # What a factory has frozen for its own training is to be recovered with the rest here.
    return Fitted(loaded.float().requires_grad_(True).eval(), (*dropped, *unused), absent)


def load(
    module: nn.Module,
    state: State,
    architecture: Architecture,
    file: Path,
    ignored: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Load weights into a network that stands, and return what of it stays as it was.

    Parameters
    ----------
    module : nn.Module
        The network; its weights are replaced.
    state : State
        Parameter name to tensor.
    architecture : Architecture
        What the network is, for messages.
    file : Path
        Where they come from, for messages.
    ignored : tuple[str, ...]
        Patterns of names that may be missing, unexpected or of another kind.

    Returns
    -------
    tuple[str, ...]
        Its tensors that are not in the file, or of another kind there.

    Raises
    ------
    CheckpointError
        If the weights do not fit, or are not finite.
    """
    auxiliary = SOURCES.load(architecture.source).auxiliary(architecture.name)
    state = {
        name: value for name, value in state.items()
        if not (name.startswith(auxiliary) or _idle(name, value))
    }  # fmt: skip
    fitting, _, absent = _compared(state, module, architecture, file, ignored)
    module.load_state_dict(rebuild.up_to_date(fitting, module), strict=False)
    return absent


def _compared(
    state: State,
    module: nn.Module,
    architecture: Architecture,
    file: Path,
    ignored: tuple[str, ...],
) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
    """Split into what fits, what is unused and what is absent; refuse what nobody allowed."""
    missing, extra, shapes = _differences(state, module)
    faults = [
        f"{len(names)} {word}, first {', '.join(names[:3])}"
        for word, names in (
            ("missing", _named(missing, ignored)),
            ("unexpected", _named(extra, ignored)),
            ("of another kind", [shapes[name] for name in _named(list(shapes), ignored)]),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"checkpoint {file} does not fit {architecture}: {'; '.join(faults)}; check --arch, or "
            "name what may differ with --ignore-keys"
        )
    _refuse_broken(state, file)
    fitting = {name: value for name, value in state.items() if name not in {*extra, *shapes}}
    return fitting, (*extra, *shapes), (*missing, *shapes)


def _idle(name: str, value: torch.Tensor) -> bool:
    """Tell whether a counter was cast with the weights; nothing needs it."""
    return name.endswith("num_batches_tracked") and value.is_floating_point()


def _built(architecture: Architecture, outputs: int | None) -> nn.Module:
    try:
        with without_memory():
            return rebuild.build(architecture, outputs)
    except (RuntimeError, NotImplementedError, ArchitectureError):
        # A network that computes with its own weights while it is built needs real ones.
        return rebuild.build(architecture, outputs)


def _loaded(module: nn.Module, state: State) -> nn.Module | None:
    """Let the weights become the network's own, without a second copy; None if some are missing."""
    rebuild.assign(module, state, strict=False)
    empty = any(value.is_meta for value in (*module.parameters(), *module.buffers()))
    return None if empty else module


def _named(names: list[str], ignored: tuple[str, ...]) -> list[str]:
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in ignored)]


def _differences(state: State, module: nn.Module) -> tuple[list[str], list[str], dict[str, str]]:
    expected = module.state_dict()
    # Checkpoints older than PyTorch 0.4.1 have no such counters, and nothing needs them.
    missing = [
        name for name in expected if name not in state and not name.endswith("num_batches_tracked")
    ]
    extra = [name for name in state if name not in expected]
    shapes = {
        name: f"{name}: found {_kind(state[name])}, expected {_kind(value)}"
        for name, value in expected.items()
        if name in state and _kind(state[name]) != _kind(value)
    }
    return missing, extra, shapes


def _kind(value: torch.Tensor) -> str:
    """Describe what has to agree: the shape, and plain dense numbers of one sort."""
    odd = (
        "sparse " if value.layout is not torch.strided
        else "quantised " if value.is_quantized
        else "complex " if value.is_complex()
        else "" if value.is_floating_point() else "whole-number "
    )  # fmt: skip
    return f"{odd}{tuple(value.shape)}"


def _refuse_broken(state: State, file: Path) -> None:
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and value.numel() and not _finite(value)
    ]
    if broken:
        raise CheckpointError(
            f"checkpoint {file}: {broken[0]} holds values that are not finite (NaN or infinity; "
            f"{len(broken)} such tensors); train it again from an earlier state"
        )


def _finite(value: torch.Tensor) -> bool:
    """Look at the extremes: they are NaN if any value is, and this needs no second tensor."""
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(value))


def _outputs(state: State, architecture: Architecture) -> int | None:
    """Read the head's width from the weights: it is what differs between two head widths."""
    if not SOURCES.load(architecture.source).sized(architecture.name):
        return None
    few, more = _shapes(architecture, 11), _shapes(architecture, 13)
    heads = [name for name, shape in few.items() if shape != more.get(name)]
    widths = {state[name].shape[0] for name in heads if name in state and state[name].ndim}
    return widths.pop() if len(widths) == 1 else None


def _shapes(architecture: Architecture, outputs: int) -> dict[str, torch.Size]:
    built = _built(architecture, outputs).state_dict()
    return {name: value.shape for name, value in built.items()}

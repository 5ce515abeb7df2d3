"""From a bundle's plan and weights back to a torch network, without pickle or tracing.

The only place that knows how to narrow a layer: the knife (`prune.apply`), the head cut and the
PyTorch runtime all use it, so a rebuilt network cannot differ from the one that was packed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from capdeploy.errors import ArchitectureError, CheckpointError
from capdeploy.values.checkpoint import Architecture
from capdeploy.values.group import Remains
from capdeploy.values.plan import LayerCut, PruningPlan
from capdeploy.zoo import SOURCES

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
REMAINS: Mapping[Remains, type[nn.Module]] = {"identity": nn.Identity, "relu": nn.ReLU}
"""What takes the place of a removed residual block."""


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether a layer is a convolution with one filter per channel."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )


def can_narrow(layer: nn.Module) -> bool:
    """Tell whether `narrow` can handle a layer."""
    return isinstance(layer, (nn.Conv2d, nn.Linear, *NORMS))


def apply(network: nn.Module, plan: PruningPlan) -> None:
    """Remove a plan's blocks and channels, in place.

    Parameters
    ----------
    network : nn.Module
        The network; pass a copy if the original is still needed.
    plan : PruningPlan
        What goes; blocks first, for the plan says nothing of the layers within.

    Raises
    ------
    ArchitectureError
        If the network has no such block or layer, or too few channels.
    """
    for block in plan.removed:
        parent, _, name = block.name.rpartition(".")
        try:
            network.get_submodule(block.name)
        except AttributeError as error:
            raise ArchitectureError(f"the network has no block {block.name}") from error
        setattr(network.get_submodule(parent), name, REMAINS[block.becomes]())
    narrow(network, plan.layers)


def narrow(network: nn.Module, cuts: Iterable[LayerCut]) -> None:
    """Remove channels from layers, in place.

    Parameters
    ----------
    network : nn.Module
        The network; pass a copy if the original is still needed.
    cuts : Iterable[LayerCut]
        Kept output and input indices of each layer, of its present shape; the order of kept
        outputs becomes the order of the narrowed layer's outputs.

    Raises
    ------
    ArchitectureError
        If a layer is not there, is of a kind that cannot be narrowed, or has too few channels.
    """
    for cut in cuts:
        try:
            layer = network.get_submodule(cut.layer)
        except AttributeError as error:
            raise ArchitectureError(f"the network has no layer {cut.layer}") from error
        if not can_narrow(layer):
            raise ArchitectureError(
                f"layer {cut.layer} ({type(layer).__name__}) cannot be narrowed; protect it"
            )
        _check_range(layer, cut)
        with torch.no_grad():
            _narrow_layer(layer, cut)


def _check_range(layer: nn.Module, cut: LayerCut) -> None:
    widths = _widths(layer)
    for kept, width in zip((cut.kept_out, cut.kept_in), widths, strict=True):
        if kept is not None and max(kept) >= width:
            raise ArchitectureError(
                f"layer {cut.layer} has {width} channels, the plan keeps channel {max(kept)}; "
                "the plan belongs to another network"
            )


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, NORMS):
        return layer.num_features, layer.num_features
    raise TypeError(type(layer).__name__)


def _narrow_layer(layer: nn.Module, cut: LayerCut) -> None:
    kept_out, kept_in = cut.kept_out, cut.kept_in
    if isinstance(layer, nn.Conv2d):
        if is_depthwise(layer):
            kept_out, kept_in = kept_out or kept_in, None
            layer.groups = layer.in_channels = len(kept_out or ()) or layer.groups
        elif layer.groups > 1:
            layer.groups = _groups_left(layer, kept_out, kept_in)
            kept_in = None
        _select_rows(layer, ("weight", "bias"), kept_out)
        _select_columns(layer, kept_in)
        layer.out_channels = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        _select_rows(layer, ("weight", "bias"), kept_out)
        _select_columns(layer, kept_in)
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, NORMS):
        _select_rows(layer, ("weight", "bias", "running_mean", "running_var"), kept_out)
        layer.num_features = len(kept_out) if kept_out is not None else layer.num_features


def _groups_left(
    layer: nn.Conv2d, kept_out: tuple[int, ...] | None, kept_in: tuple[int, ...] | None
) -> int:
    """Count the groups that a grouped convolution keeps; it can only lose whole ones."""
    sides = ((kept_out, layer.out_channels), (kept_in, layer.in_channels))
    found: list[list[int] | None] = []
    for kept, width in sides:
        each = width // layer.groups
        places = range(width) if kept is None else kept
        whole = [places[start : start + each] for start in range(0, len(places), each)]
        groups = [part[0] // each for part in whole]
        if any(
            list(part) != list(range(group * each, group * each + each))
            for part, group in zip(whole, groups, strict=True)
        ):
            found.append(None)
        else:
            found.append(groups)
    out, into = found
    if out is None or out != into:
        raise ArchitectureError(
            f"a grouped convolution ({layer.groups} groups) can only lose whole groups, the same "
            "on both sides; the plan belongs to another network"
        )
    return len(out)


def _select_rows(layer: nn.Module, names: tuple[str, ...], kept: tuple[int, ...] | None) -> None:
    if kept is None:
        return
    for name in names:
        tensor = getattr(layer, name)
        if tensor is not None:
            _replace(layer, name, tensor.index_select(0, _index(kept, tensor)))


def _select_columns(layer: nn.Module, kept: tuple[int, ...] | None) -> None:
    if kept is None:
        return
    weight = layer.get_parameter("weight")
    _replace(layer, "weight", weight.index_select(1, _index(kept, weight)))


def _index(kept: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(kept, dtype=torch.long, device=like.device)


def _replace(layer: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(layer, name)
    fresh = value.detach().clone()
    if isinstance(old, nn.Parameter):
        setattr(layer, name, nn.Parameter(fresh, requires_grad=old.requires_grad))
    else:
        setattr(layer, name, fresh)


def build(architecture: Architecture, outputs: int | None) -> nn.Module:
    """Build an architecture with fresh weights.

    Parameters
    ----------
    architecture : Architecture
        What to build.
    outputs : int | None
        Width of the head; None leaves the network's default.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    ArchitectureError
        If it is unknown or its arguments do not fit.
    """
    source = SOURCES.load(architecture.source)
    return source.build(architecture.name, architecture.arguments, outputs)


def up_to_date(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Say that weights are of the versions of a network's layers, which plain files do not say.

    torch keeps the version in an attribute of the dictionary, and MNASNet will not load without.
    """
    versioned = OrderedDict(state)
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return versioned


def assign(network: nn.Module, state: dict[str, torch.Tensor], *, strict: bool) -> None:
    """Let tensors become a network's own, without a second copy; weights that are shared stay so.

    Parameters
    ----------
    network : nn.Module
        The network.
    state : dict[str, torch.Tensor]
        Parameter name to tensor; of several names for one weight the last counts.
    strict : bool
        Whether names have to agree.

    Raises
    ------
    RuntimeError
        If they do not, or a shape does not.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    network.load_state_dict(up_to_date(state, network), strict=strict, assign=True)
    for tied in names.values():
        given = [name for name in tied if name in state]
        for name in tied if len(tied) > 1 and given else ():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, network.get_parameter(given[-1]))


def from_plan(
    architecture: Architecture, outputs: int, plan: PruningPlan, weights: Path
) -> nn.Module:
    """Rebuild a compressed network: architecture, then the plan's shapes, then the weights.

    Parameters
    ----------
    architecture : Architecture
        The original architecture.
    outputs : int
        Width of the original head.
    plan : PruningPlan
        Kept original indices of every layer.
    weights : Path
        The bundle's safetensors file.

    Returns
    -------
    nn.Module
        The network in evaluation mode; it answers bit for bit as the packed one did.

    Raises
    ------
    ArchitectureError
        If the plan does not belong to the architecture.
    CheckpointError
        If the weights do not fit.
    """
    network = build(architecture, outputs)
    apply(network, plan)
    try:
        # Copied: where a file's tensor begins in memory, kernels may round otherwise.
        state = {name: value.clone() for name, value in load_file(weights).items()}
        assign(network, state, strict=True)
    except (RuntimeError, SafetensorError) as error:
        line = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{weights} does not fit {architecture}: {line}") from error
    return network.float().eval()  # buffers that are not in the file may be of another kind

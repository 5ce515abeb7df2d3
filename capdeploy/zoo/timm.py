"""Any convolutional classifier of timm, by its name: ``timm:NAME``. Weights are never fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from capdeploy.catalog import nearest
from capdeploy.errors import ArchitectureError
from capdeploy.zoo import Source

# A bundle of somebody else's may not make timm unpickle a file.
FOREIGN = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


def _names() -> tuple[str, ...]:
    return tuple(timm.list_models())


def _families() -> dict[str, tuple[str, ...]]:
    return {module: tuple(timm.list_models(module=module)) for module in timm.list_modules()}


def _build(name: str, arguments: Mapping[str, Any], outputs: int | None) -> nn.Module:
    if not timm.is_model(name):
        raise ArchitectureError(
            f"unknown architecture 'timm:{name}': {nearest(name, _names())} (a name of timm)"
        )
    if foreign := FOREIGN & arguments.keys():
        raise ArchitectureError(
            f"architecture timm:{name}: {min(foreign)} would read weights from elsewhere; leave it "
            "away and name the checkpoint instead"
        )
    sized = {} if outputs is None else {"num_classes": outputs}
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **sized, **arguments)
    except Exception as error:  # each network has its own words for what it cannot be
        raise ArchitectureError(f"architecture timm:{name}: {error}; check --arch-arg") from error
    return network


SOURCE = Source(build=_build, sized=lambda _: True, names=_names, families=_families)

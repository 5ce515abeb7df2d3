"""Any torchvision classification network, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import nn

from capdeploy.catalog import nearest
from capdeploy.errors import ArchitectureError
from capdeploy.zoo import Source

# Heads beside the main one, which training alone uses.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def _names() -> tuple[str, ...]:
    return tuple(torchvision.models.list_models(module=torchvision.models))


def _build(name: str, arguments: Mapping[str, Any], outputs: int | None) -> nn.Module:
    if name not in _names():
        raise ArchitectureError(
            f"unknown architecture '{name}': {nearest(name, _names())} "
            "(a torchvision classifier's name, timm:NAME, cifar_resnet:NAME, "
            "package.module:callable or file.py:callable)"
        )
    settings = {} if outputs is None else {"num_classes": outputs}
    if name in AUXILIARY:
        settings |= {"aux_logits": False, "init_weights": True}
    settings |= arguments
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    except Exception as error:  # each network has its own words for what it cannot be
        raise ArchitectureError(f"architecture {name}: {error}; check --arch-arg") from error
    return network


SOURCE = Source(
    build=_build,
    sized=lambda _: True,
    names=_names,
    auxiliary=lambda name: AUXILIARY.get(name, ()),
)

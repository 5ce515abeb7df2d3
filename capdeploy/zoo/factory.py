"""A network from the user's own code: ``package.module:callable`` or ``path/net.py:callable``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from capdeploy.errors import ArchitectureError
from capdeploy.zoo import Source


def _callable(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.rpartition(":")
    # A command-line script does not have the user's folder on its path, `python -m` does.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = (_from_file if module_name.endswith(".py") else importlib.import_module)(
            module_name
        )
    except Exception as error:  # the user's module may raise anything while it is imported
        raise ArchitectureError(
            f"architecture {name}: cannot import {module_name}: {error}; "
            "run from the folder that holds it, or install it"
        ) from error
    made: object = getattr(module, attribute, None)
    if not callable(made):
        raise ArchitectureError(f"architecture {name}: {module_name} has no callable '{attribute}'")
    return made


@cache
def _from_file(path: str) -> ModuleType:
    file = Path(path)
    # Nobody imports it by this name, so that it hides no package.
    name = f"architecture_{hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ImportError("there is no such file")
    module = importlib.util.module_from_spec(spec)
    # Files beside it can be imported by it, as if it were run as a script.
    if str(file.parent.absolute()) not in sys.path:
        sys.path.append(str(file.parent.absolute()))
    sys.modules[name] = module  # data classes look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:  # raised again: half a module may not be found there
        del sys.modules[name]
        raise
    return module


def _sized(name: str) -> bool:
    return "num_classes" in inspect.signature(_callable(name)).parameters


def _build(name: str, arguments: Mapping[str, Any], outputs: int | None) -> nn.Module:
    sized = {"num_classes": outputs} if outputs is not None and _sized(name) else {}
    try:
        network = _callable(name)(**sized, **arguments)
    except Exception as error:  # it is the user's own code, and may raise anything
        raise ArchitectureError(f"architecture {name}: {error}; check --arch-arg") from error
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"architecture {name} returned {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


SOURCE = Source(build=_build, sized=_sized, names=lambda: ())

"""Networks whose parameters have shapes and nothing else, to look at how they are built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """Let networks be built whose parameters have shapes and no memory; buffers are real.

    ``torch.device("meta")`` would take the numbers too that RegNets compute their widths from.
    Parameters that are tied stay tied.
    """
    register = nn.Module.register_parameter

    def moved(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    with mock.patch.object(nn.Module, "register_parameter", moved), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves out the initial values of what has no memory, which take longer than all else."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        first = args[0] if args else (kwargs or {}).get("tensor")
        name = getattr(func, "__name__", "")
        # By torch's convention such a name is one that changes its tensor in place.
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(first, torch.Tensor) and first.is_meta:
            return first
        return func(*args, **(kwargs or {}))

"""PyTorch eager, on the network rebuilt from plan and weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from capdeploy.bundle import Bundle
from capdeploy.errors import MissingExtraError
from capdeploy.runtimes import Runtime, foreign_code


def _require() -> None:
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "compress")


def _devices() -> tuple[str, ...]:
    _require()
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _open(bundle: Bundle, device: str, threads: int) -> Any:
    _require()
    from capdeploy.torch_session import TorchSession

    return TorchSession(bundle, device, threads)


RUNTIME = Runtime(
    title="PyTorch",
    supports=("cpu", "cuda"),
    devices=_devices,
    open=_open,
    foreign_code=foreign_code,
    needs_bundle=True,
)

"""PyTorch eager, on the network rebuilt from plan and weights."""

from __future__ import annotations

from typing import Any

from capdeploy.bundle import Bundle
from capdeploy.runtimes import Runtime, foreign_code, require_torch


def _devices() -> tuple[str, ...]:
    require_torch()
    from capdeploy.torch_session import devices

    return devices()


def _open(bundle: Bundle, device: str, threads: int) -> Any:
    require_torch()
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

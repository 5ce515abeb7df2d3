"""PyTorch compiled by TorchInductor (torch.compile); it needs a C++ compiler."""

from __future__ import annotations

import os
import shutil
from typing import Any

from capdeploy.bundle import Bundle
from capdeploy.errors import MissingDeviceError
from capdeploy.runtimes import Runtime, foreign_code, require_torch

COMPILERS = ("c++", "g++", "clang++")


def _devices() -> tuple[str, ...]:
    require_torch()
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else list(COMPILERS)
    if not any(shutil.which(name) for name in wanted):
        raise MissingDeviceError(
            f"torch.compile needs a C++ compiler ({', '.join(wanted)}) and finds none; install "
            "one, or leave torch_compile out"
        )
    from capdeploy.torch_session import devices

    return devices()


def _open(bundle: Bundle, device: str, threads: int) -> Any:
    require_torch()
    from capdeploy.torch_session import TorchSession

    return TorchSession(bundle, device, threads, compiled=True)


RUNTIME = Runtime(
    title="torch.compile",
    supports=("cpu", "cuda"),
    devices=_devices,
    open=_open,
    foreign_code=foreign_code,
    needs_bundle=True,
)

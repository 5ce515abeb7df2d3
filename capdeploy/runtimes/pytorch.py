"""PyTorch eager, on the network rebuilt from plan and weights: the only torch on the field side."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import PLAN, WEIGHTS, Bundle
from capdeploy.errors import MissingExtraError, SilentFallbackError
from capdeploy.runtimes import Runtime
from capdeploy.values.plan import PruningPlan


def _library() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "compress") from error
    return torch


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if _library().cuda.is_available() else ("cpu",)


class _Session:
    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        self._torch = torch = _library()
        from capdeploy import rebuild

        checkpoint = bundle.manifest.checkpoint
        torch.set_num_threads(threads)
        plan = PruningPlan.from_json(bundle.path(PLAN).read_bytes(), source=str(bundle.path(PLAN)))
        network = rebuild.from_plan(
            checkpoint.architecture, checkpoint.outputs, plan, bundle.path(WEIGHTS)
        )
        self._network = network.to(torch.device(device))
        used = {parameter.device.type for parameter in self._network.parameters()}
        if used != {device}:
            raise SilentFallbackError(f"torch put the network on {used}, asked for {device}")
        self._device = torch.device(device)
        self.effective = {
            "device": device,
            "threads": str(torch.get_num_threads()),
            "version": torch.__version__,
        }

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch; copies to and from the device are part of it, and wait for it."""
        torch = self._torch
        with torch.inference_mode():
            answer = self._network(torch.from_numpy(batch).to(self._device))
        logits: npt.NDArray[np.float32] = answer.cpu().numpy()
        return logits

    def close(self) -> None:
        """Drop the network."""
        del self._network


def _foreign_code(bundle: Bundle) -> str | None:
    architecture = bundle.manifest.checkpoint.architecture
    return architecture.name if architecture.source == "factory" else None


RUNTIME = Runtime(
    title="PyTorch",
    supports=("cpu", "cuda"),
    devices=_devices,
    open=_Session,
    foreign_code=_foreign_code,
)

"""A bundle's network in PyTorch, ready to answer: eager, or compiled by torch.compile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from capdeploy import rebuild
from capdeploy.bundle import PLAN, WEIGHTS, Bundle
from capdeploy.errors import SilentFallbackError
from capdeploy.values.plan import PruningPlan


def devices() -> tuple[str, ...]:
    """List the devices of this machine that torch can use."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


class TorchSession:
    """The network rebuilt from plan and weights, on a device.

    Parameters
    ----------
    bundle : Bundle
        What to open.
    device : str
        ``cpu`` or ``cuda``.
    threads : int
        Of the CPU's operators.
    compiled : bool
        Compile it with TorchInductor; the first inference of each batch size then takes seconds.

    Raises
    ------
    SilentFallbackError
        If the network is not on the device.
    """

    def __init__(
        self, bundle: Bundle, device: str, threads: int, *, compiled: bool = False
    ) -> None:
        checkpoint = bundle.manifest.checkpoint
        self._before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
        torch.set_num_threads(threads)
        plan = PruningPlan.from_json(bundle.path(PLAN).read_bytes(), source=str(bundle.path(PLAN)))
        network = rebuild.from_plan(
            checkpoint.architecture, checkpoint.outputs, plan, bundle.path(WEIGHTS)
        )
        if device == "cuda":
            # On tensor cores single precision has ten bits: fast, and another row than fp32.
            torch.backends.cudnn.allow_tf32 = False
        network = network.to(torch.device(device))
        used = {parameter.device.type for parameter in network.parameters()}
        if used != {device}:
            raise SilentFallbackError(f"torch put the network on {used}, asked for {device}")
        self._network = torch.compile(network) if compiled else network
        self._device = torch.device(device)
        self.effective = {
            "device": device,
            "mode": "inductor" if compiled else "eager",
            "threads": str(torch.get_num_threads()),
            "version": torch.__version__,
        }
        if device == "cuda":
            self.effective["tf32"] = "off"

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch; copies to and from the device are part of it, and wait for it."""
        with torch.inference_mode():
            answer = self._network(torch.from_numpy(batch).to(self._device))
        logits: npt.NDArray[np.float32] = answer.cpu().numpy()
        return logits

    def device_ms(self, batch: npt.NDArray[np.float32]) -> float | None:
        """Time one inference with CUDA events, in ms; None where there is no such device."""
        if self._device.type != "cuda":
            return None
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            start.record()
            answer = self._network(torch.from_numpy(batch).to(self._device))
            end.record()
        answer.cpu()
        elapsed: float = start.elapsed_time(end)
        return elapsed

    def close(self) -> None:
        """Drop the network, and put torch back as a host program had it."""
        del self._network
        threads, torch.backends.cudnn.allow_tf32 = self._before
        torch.set_num_threads(threads)

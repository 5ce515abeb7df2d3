"""OpenVINO on the CPU, on Intel GPUs and on NPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import GRAPH, Bundle
from capdeploy.errors import MissingExtraError, SilentFallbackError
from capdeploy.runtimes import Runtime

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


TELEMETRY = "openvino_telemetry"


def _library() -> Any:
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry: its import alone would report home; without it, a stub is taken.

    Whoever loaded that package before us keeps it.
    """
    hidden = TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[TELEMETRY]


def _devices() -> tuple[str, ...]:
    # Several GPUs are listed as GPU.0, GPU.1, ...
    available = {name.partition(".")[0] for name in _library().Core().available_devices}
    return tuple(device for device, name in DEVICES.items() if name in available)


class _Session:
    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        library = _library()
        # LATENCY is one stream, one request at a time; the default would be throughput.
        wanted = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if device == "cpu":
            wanted["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = library.Core().compile_model(str(bundle.path(GRAPH)), DEVICES[device], wanted)
        used = compiled.get_property("EXECUTION_DEVICES")
        if not all(str(name).startswith(DEVICES[device]) for name in used):
            raise SilentFallbackError(f"OpenVINO fell back from {DEVICES[device]} to {used}")
        self._request = compiled.create_infer_request()
        self.effective = {
            "device": ", ".join(map(str, used)),
            "precision": str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()),
            "streams": str(compiled.get_property("NUM_STREAMS")),
            "version": library.__version__,
        }
        if device == "cpu":
            self.effective["threads"] = str(compiled.get_property("INFERENCE_NUM_THREADS"))

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch; the logits are copied, as the next call reuses their memory."""
        result = self._request.infer([batch], share_inputs=True)
        logits: npt.NDArray[np.float32] = np.array(result[0])
        return logits

    def close(self) -> None:
        """Drop the request and its compiled model."""
        del self._request


RUNTIME = Runtime(title="OpenVINO", supports=("cpu", "gpu", "npu"), devices=_devices, open=_Session)

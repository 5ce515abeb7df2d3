"""OpenVINO on the CPU, on Intel GPUs and on NPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.absent import without
from capdeploy.bundle import Bundle
from capdeploy.errors import MissingExtraError, SilentFallbackError
from capdeploy.runtimes import Runtime

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


def _library() -> Any:
    try:
        # Its import alone would report home; without it OpenVINO takes a stub.
        with without("openvino_telemetry"):
            import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


def _devices() -> tuple[str, ...]:
    # Several GPUs are listed as GPU.0, GPU.1, ...
    available = {name.partition(".")[0] for name in _library().Core().available_devices}
    return tuple(device for device, name in DEVICES.items() if name in available)


class _Session:
    """One compiled model for each batch size: a free batch costs some five per cent of the time."""

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        library = _library()
        self._core, self._device = library.Core(), DEVICES[device]
        self._graph = str(bundle.graph_path)
        # LATENCY is one stream, one request at a time; the default would be throughput.
        self._wanted = {"PERFORMANCE_HINT": "LATENCY"}
        if device != "npu":  # which has no single precision
            half = device != "cpu" and getattr(bundle, "precision", "fp32") == "fp16"
            self._wanted["INFERENCE_PRECISION_HINT"] = "f16" if half else "f32"
        if device == "cpu":
            self._wanted["INFERENCE_NUM_THREADS"] = str(threads)
        self._requests: dict[int, Any] = {}
        compiled = self._compile(1)
        self.effective = {
            "device": ", ".join(map(str, compiled.get_property("EXECUTION_DEVICES"))),
            "precision": str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()),
            "streams": str(compiled.get_property("NUM_STREAMS")),
            "version": library.__version__,
        }
        if device == "cpu":
            self.effective["threads"] = str(compiled.get_property("INFERENCE_NUM_THREADS"))

    def _compile(self, batch: int) -> Any:
        model = self._core.read_model(self._graph)
        shape = model.input(0).partial_shape
        if shape[0].is_dynamic:
            shape[0] = batch
            model.reshape(shape)
        compiled = self._core.compile_model(model, self._device, self._wanted)
        used = compiled.get_property("EXECUTION_DEVICES")
        if not all(str(name).startswith(self._device) for name in used):
            raise SilentFallbackError(f"OpenVINO fell back from {self._device} to {used}")
        self._requests[batch] = compiled.create_infer_request()
        return compiled

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch; it is copied in, and the logits are copied out."""
        request = self._request(len(batch))
        request.get_input_tensor(0).data[:] = batch
        request.infer(share_outputs=True)
        logits: npt.NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return logits

    def device_ms(self, batch: npt.NDArray[np.float32]) -> float | None:
        """Time one inference by OpenVINO's own clock, in ms, as ``benchmark_app`` does."""
        self.run(batch)
        elapsed: float = self._request(len(batch)).latency
        return elapsed

    def _request(self, batch: int) -> Any:
        if batch not in self._requests:
            self._compile(batch)
        return self._requests[batch]

    def close(self) -> None:
        """Drop the requests and their compiled models."""
        self._requests.clear()


RUNTIME = Runtime(title="OpenVINO", supports=("cpu", "gpu", "npu"), devices=_devices, open=_Session)

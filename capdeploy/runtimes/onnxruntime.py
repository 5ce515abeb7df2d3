"""ONNX Runtime on the CPU, on CUDA and on TensorRT."""

from __future__ import annotations

import ctypes
import os
from ctypes.util import find_library
from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import Bundle
from capdeploy.errors import MissingExtraError, SilentFallbackError
from capdeploy.runtimes import Runtime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# On tensor cores single precision has ten bits: fast, and another row than fp32.
OPTIONS = {"cuda": {"use_tf32": "0"}}


def _library() -> Any:
    # Before the import: some builds open a telemetry channel while they load.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _devices() -> tuple[str, ...]:
    built = _library().get_available_providers()
    # It lists what it was built for, whether that is here or not.
    here = {"cpu": True, "cuda": _has_gpu()}
    here["tensorrt"] = here["cuda"] and find_library("nvinfer") is not None
    return tuple(
        device for device, provider in PROVIDERS.items() if provider in built and here[device]
    )


def _has_gpu() -> bool:
    """Ask NVIDIA's driver for a device."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)  # as it stays where the driver finds nothing
    if driver.cuInit(0) == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value > 0


class _Session:
    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        ort = _library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads steal time from whoever else is measured on a shared machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            # The CUDA provider finds the libraries that torch's wheels brought along.
            if hasattr(ort, "preload_dlls"):  # from 1.21 on
                ort.preload_dlls()
        provider = PROVIDERS[device]
        given = (provider, OPTIONS.get(device, {}))
        try:
            self._session = ort.InferenceSession(str(bundle.graph_path), options, providers=[given])
        except Exception as error:
            if device == "cpu":
                raise
            line = str(error).splitlines()[0]
            raise SilentFallbackError(
                f"ONNX Runtime cannot keep the whole graph on {device}: {line}"
            ) from error
        used = self._session.get_providers()
        if used[0] != provider:
            raise SilentFallbackError(
                f"ONNX Runtime fell back from {provider} to {used[0]}; install the build for "
                f"{device}, or leave that device out"
            )
        self._input = self._session.get_inputs()[0].name
        self.effective = {
            "provider": used[0],
            "threads": str(self._session.get_session_options().intra_op_num_threads),
            "version": ort.__version__,
        }

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch."""
        logits: npt.NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return logits

    def close(self) -> None:
        """Drop the session."""
        del self._session


RUNTIME = Runtime(
    title="ONNX Runtime",
    supports=("cpu", "cuda", "tensorrt"),
    devices=_devices,
    open=_Session,
    pointless={("fp16", "cpu"): "half precision is for GPUs; the CPU's kernels cast every layer"},
)

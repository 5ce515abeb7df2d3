"""What a runtime says of its devices."""

import onnxruntime
import torch

from capdeploy.runtimes import RUNTIMES
from capdeploy.runtimes.onnxruntime import PROVIDERS


def test_a_build_for_gpus_is_no_gpu(monkeypatch):
    # The build for GPUs cannot be installed beside the plain one; it says this on any machine.
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    found = RUNTIMES.load("onnxruntime").devices()
    assert "cpu" in found
    assert ("cuda" in found) == torch.cuda.is_available()
    assert set(found) <= set(PROVIDERS)
    if "cuda" not in found:
        assert "tensorrt" not in found


def test_only_what_the_build_has_is_named():
    found = RUNTIMES.load("onnxruntime").devices()
    assert {PROVIDERS[device] for device in found} <= set(onnxruntime.get_available_providers())

"""Probe networks: valid graphs of the width that was asked for, which runtimes answer."""

import numpy as np
import onnx
import onnxruntime
import pytest

from capdeploy.export import probes


@pytest.mark.parametrize("width", [7, 16, 63])
@pytest.mark.parametrize("block", probes.BLOCKS)
def test_a_probe_has_its_width_and_answers(block, width, tmp_path):
    file = tmp_path / "probe.onnx"
    probes.build(block, width, file)
    graph = onnx.load(file).graph
    shapes = [list(tensor.dims) for tensor in graph.initializer]
    assert shapes[0] == [width, 3, 3, 3]
    body = [[width, 1, 3, 3], [width, width, 1, 1]] if block == "separable" else [
        [width, width, 3, 3]
    ]  # fmt: skip
    assert shapes[1:] == body * probes.DEPTH
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, probes.SIZE, probes.SIZE), dtype=np.float32)
    (answer,) = session.run(None, {"images": image})
    assert answer.shape == (1, width)
    assert np.isfinite(answer).all()
    # Denormal activations would be timed instead of the layers.
    assert answer.max() > 1e-3


def test_a_probe_is_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        probes.build("dense", 8, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

"""What is measured of a candidate: its graph, in the precision that counts."""

import numpy as np
import onnx
import pytest
import torch

from capdeploy.export import graph, parity
from capdeploy.export.candidates import Writer


def types(path):
    return {each.data_type for each in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_eight_bits_are_the_same_file_for_both_runtimes(residual, tmp_path, runtime):
    written = Writer("int8", runtime).write(residual, tmp_path / "x.onnx")
    assert written == tmp_path / "x.int8.onnx"
    assert onnx.TensorProto.INT8 in types(written)
    inputs = residual.example(10)
    with torch.no_grad():
        exact = residual.module(inputs).numpy()
    proof = parity.check(written, inputs.numpy(), exact, stage="x", atol=1)
    assert 0 < proof.max_abs_error < 0.2 * np.abs(exact).max()


def test_half_precision_is_a_file_of_its_own_for_onnx_runtime_alone(residual, tmp_path):
    written = Writer("fp16", "onnxruntime").write(residual, tmp_path / "x.onnx")
    assert written == tmp_path / "x.fp16.onnx"
    assert onnx.TensorProto.FLOAT16 in types(written)
    assert Writer("fp16", "openvino").write(residual, tmp_path / "y.onnx") == tmp_path / "y.onnx"
    assert onnx.TensorProto.FLOAT16 not in types(tmp_path / "y.onnx")


def test_single_precision_is_the_graph_itself(residual, tmp_path):
    written = Writer().write(residual, tmp_path / "x.onnx")
    assert written == tmp_path / "x.onnx"
    graph.export(residual, tmp_path / "y.onnx", {})
    assert graph.describe(written) == graph.describe(tmp_path / "y.onnx")

"""Fewer bits: the graphs run, stay near, and the noisiest layers are found."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime import quantization
from torch import nn

from capdeploy.errors import StepFailedError
from capdeploy.export import for_openvino, quantize
from capdeploy.export import graph as graphs
from tests.conftest import wrap


class Uneven(nn.Module):
    """Three convolutions; the second has a weight without effect that spoils the others' scale."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        with torch.no_grad():
            self.a.weight[0], self.a.bias[0] = 0.0, -1.0
            self.b.weight[:, 0, 0, 0] = 60.0

    def forward(self, images):
        maps = self.a(images).relu()
        return self.head(self.c(self.b(maps).relu()).relu().mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    graphs.export(wrap(Uneven()), path, {"capdeploy.labels": "abcd"})
    return path


def inputs(count=16):
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("reduce_range", [True, False])
def test_eight_bits_run_at_any_batch_and_keep_the_facts(uneven, tmp_path, reduce_range):
    target = tmp_path / "int8.onnx"
    quantize.onnx_int8(uneven, target, inputs(), reduce_range=reduce_range)
    for batch in (1, 2, 7):
        assert answers(target, inputs(batch)).shape == (batch, 4)
    exact, rough = answers(uneven, inputs()), answers(target, inputs())
    assert 0 < np.abs(exact - rough).max() < 0.5 * np.abs(exact).max()
    made = onnx.load(target)
    assert {entry.key: entry.value for entry in made.metadata_props} == {"capdeploy.labels": "abcd"}
    weights = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert len(weights) >= 4
    largest = max(
        np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights
    )
    assert largest <= 64 if reduce_range else largest > 100


def test_the_layer_that_eight_bits_hurt_most_comes_first_and_can_be_left_out(uneven, tmp_path):
    quantize.onnx_int8(uneven, tmp_path / "int8.onnx", inputs(), brief=False)
    ranked = quantize.noisiest(uneven, tmp_path / "int8.onnx", inputs())
    graph = onnx.load(uneven).graph
    nodes = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert sorted(ranked) == sorted(nodes)
    assert ranked[0] == nodes[1]
    quantize.onnx_int8(uneven, tmp_path / "mixed.onnx", inputs(), exclude=ranked[:1])
    kinds = {
        name: [
            t.data_type for t in onnx.load(tmp_path / name).graph.initializer if len(t.dims) == 4
        ]
        for name in ("int8.onnx", "mixed.onnx")
    }
    assert kinds["int8.onnx"].count(onnx.TensorProto.FLOAT) == 0
    assert kinds["mixed.onnx"].count(onnx.TensorProto.FLOAT) == 1


def by_onnxruntime(source, target, images, exclude):
    """Quantise by ONNX Runtime's own tool alone, which corrects no biases."""

    class Reader(quantization.CalibrationDataReader):
        rest = iter(images)

        def get_next(self):
            image = next(self.rest, None)
            return None if image is None else {"images": image[None]}

    quantization.quantize_static(
        source, target, Reader(), per_channel=True, nodes_to_exclude=exclude,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


@pytest.mark.parametrize("left_out", [0, 1])
def test_rounding_shifts_no_mean(uneven, tmp_path, left_out):
    """The mean answer is that of the exact graph, whatever the layers before were off by."""
    layers = [node.name for node in onnx.load(uneven).graph.node if node.op_type == "Conv"]
    exclude = layers[1 : 1 + left_out]
    quantize.onnx_int8(uneven, tmp_path / "corrected.onnx", inputs(64), exclude=exclude)
    by_onnxruntime(uneven, tmp_path / "plain.onnx", inputs(64), exclude)
    exact, corrected, plain = (
        answers(path, inputs(64)).mean(axis=0)
        for path in (uneven, tmp_path / "corrected.onnx", tmp_path / "plain.onnx")
    )
    assert np.abs(corrected - exact).mean() < 0.25 * np.abs(plain - exact).mean()


def test_layers_that_share_a_bias_keep_it(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

        def forward(self, images):
            maps = self.again(self.again(self.first(images).relu()).relu()).relu()
            return self.head(maps.mean(dim=(2, 3)))

    torch.manual_seed(0)
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    graphs.export(wrap(Twice()), source, {})
    both = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"][1:]
    quantize.onnx_int8(source, target, inputs(), exclude=both, brief=False)
    kept = [
        onnx.numpy_helper.to_array(tensor)
        for path in (source, target)
        for tensor in onnx.load(path).graph.initializer if tensor.name == "again.bias"
    ]  # fmt: skip
    assert np.array_equal(*kept)


def test_openvino_takes_eight_and_sixteen_bits(uneven, tmp_path):
    import openvino

    exact = answers(uneven, inputs(2))
    for_openvino.int8(uneven, tmp_path / "int8.xml", inputs())
    for_openvino.fp16(uneven, tmp_path / "fp16.xml")
    for name, near in (("int8", 0.5), ("fp16", 0.01)):
        compiled = openvino.Core().compile_model(tmp_path / f"{name}.xml", "CPU")
        found = compiled(inputs(2))[0]
        assert np.abs(found - exact).max() < near * np.abs(exact).max()
        assert (tmp_path / f"{name}.bin").stat().st_size < uneven.stat().st_size
        # Biases are constants, and the text is no longer than it has to be.
        text = (tmp_path / f"{name}.xml").read_text(encoding="utf-8")
        assert text.count("ShapeOf") <= 2  # the flatten before the head asks for the batch
        assert "\n\t" not in text


def operators(graph, folder):
    """Count what ONNX Runtime makes of a graph."""
    asked = onnxruntime.SessionOptions()
    asked.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    asked.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(graph, asked)
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(node.op_type for node in nodes)


def test_short_names_change_nothing_but_the_size(uneven, tmp_path):
    for name, brief in (("long", False), ("short", True)):
        quantize.onnx_int8(uneven, tmp_path / f"{name}.onnx", inputs(), brief=brief)
    assert np.array_equal(
        answers(tmp_path / "short.onnx", inputs(2)), answers(tmp_path / "long.onnx", inputs(2))
    )
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("short", "long")]
    assert sizes[0] < sizes[1]
    onnx.checker.check_model(tmp_path / "short.onnx", full_check=True)
    layers = {node.name for node in onnx.load(uneven).graph.node if node.op_type == "Conv"}
    assert layers <= {node.name for node in onnx.load(tmp_path / "short.onnx").graph.node}
    # Both compute in whole numbers as far as they can; answers alone would not show it.
    short, long = (operators(tmp_path / f"{name}.onnx", tmp_path) for name in ("short", "long"))
    assert short == long
    assert {"QLinearConv", "QGemm"} <= set(short)


def test_half_precision_keeps_its_door_and_answers_nearly_the_same(uneven, tmp_path):
    exact = answers(uneven, inputs(2))
    quantize.onnx_fp16(uneven, tmp_path / "fp16.onnx")
    halved = onnx.load(tmp_path / "fp16.onnx")
    kinds = {tensor.data_type for tensor in halved.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert halved.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert halved.metadata_props == onnx.load(uneven).metadata_props
    found = answers(tmp_path / "fp16.onnx", inputs(2))
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_what_no_quantiser_can_read_is_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(StepFailedError, match=r"ONNX Runtime cannot quantise broken.onnx: \w+"):
        quantize.onnx_int8(tmp_path / "broken.onnx", tmp_path / "out.onnx", inputs(2))
    with pytest.raises(StepFailedError, match=r"OpenVINO cannot take broken.onnx"):
        for_openvino.int8(tmp_path / "broken.onnx", tmp_path / "out.xml", inputs(2))
    assert not (tmp_path / "out.onnx").exists()

"""OpenVINO's slim graphs: what is left out changes no answer and no layer."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from capdeploy.absent import without
from capdeploy.export import graph as graphs
from capdeploy.export import openvino_child as child
from tests.conftest import wrap

with without("openvino_telemetry"):  # its import alone would report home
    import openvino
    from openvino import opset13


class Inverted(nn.Module):
    """An expansion, a depthwise convolution and a projection, added to what came in."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 160, 3, padding=1)
        self.depth = nn.Conv2d(160, 160, 3, padding=1, groups=160)
        self.back = nn.Conv2d(160, 3, 1)
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        maps = nn.functional.relu6(self.depth(nn.functional.relu6(3 * self.stem(images))))
        return self.head((self.back(maps).relu() + images).mean(dim=(2, 3)))


def inputs(count=16):
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)


def answers(model, images):
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, "CPU", exact)(images)[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    graphs.export(wrap(Inverted()), path, {})
    return path


@pytest.fixture
def rounded(source):
    return child.quantised(child.opened(str(source)), inputs(), [])


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def test_activations_that_rounding_does_as_well_go(rounded):
    before = answers(rounded, inputs(4))
    acting = {"Maximum", "Minimum", "Relu"}
    assert acting <= set(kinds(rounded))
    child.without_idle_activations(rounded)
    assert not acting & set(kinds(rounded))
    assert np.array_equal(answers(rounded, inputs(4)), before)


def rounding(low, high, *acts):
    """Build activations in a row and a rounding behind them."""
    door = opset13.parameter([1, 3, 4, 4], np.float32)
    source = door
    for act in acts:
        source = act(source)
    bounds = [np.float32(bound) for bound in (low, high, low, high)]
    return openvino.Model([opset13.fake_quantize(source, *bounds, 256)], [door])


def clamp(source):
    return opset13.clamp(source, 0.0, 6.0)


def halves(source):
    return opset13.minimum(opset13.maximum(np.float32(0), source), np.float32(6))


def larger(source):
    return opset13.maximum(source, opset13.negative(source))


@pytest.mark.parametrize(
    ("low", "high", "act", "left"),
    [(0, 6, clamp, 0), (1, 5, clamp, 0), (-1, 6, clamp, 1), (0, 7, clamp, 1),
     (0, 9, opset13.relu, 0), (-1, 9, opset13.relu, 1), (0, 6, halves, 0), (-1, 6, halves, 1),
     (0, 7, halves, 2), (0, 6, larger, 1)],
)  # fmt: skip
def test_an_activation_goes_only_where_rounding_does_as_much(low, high, act, left):
    model = rounding(low, high, act)
    wide = np.linspace(-10, 10, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    before = answers(model, wide)
    child.without_idle_activations(model)
    assert sum(kind in ("Clamp", "Relu", "Maximum", "Minimum") for kind in kinds(model)) == left
    assert np.array_equal(answers(model, wide), before)


def test_an_activation_that_another_layer_reads_stays():
    door = opset13.parameter([1, 3, 4, 4], np.float32)
    act = opset13.relu(door)
    bounds = [np.float32(bound) for bound in (0, 6, 0, 6)]
    model = openvino.Model(
        [opset13.fake_quantize(act, *bounds, 256), opset13.negative(act)], [door]
    )
    child.without_idle_activations(model)
    assert kinds(model).count("Relu") == 1
    assert kinds(model).index("Relu") < kinds(model).index("FakeQuantize")


def test_what_is_left_out_is_not_rounded(source):
    """By the name that ONNX gives a layer, which OpenVINO's own conversion would change."""
    [stem, *_] = [node.name for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    both = [stem, f"{stem}/WithoutBiases"]
    model = child.quantised(child.opened(str(source)), inputs(), both)
    rounds = {
        node.get_friendly_name(): "Convert" in {
            above.get_node().get_type_name()
            for above in (each.get_source_output() for each in weigh.inputs())
        }
        for node in model.get_ordered_ops() if "Convolution" in node.get_type_name()
        for weigh in [node.input(1).get_source_output().get_node()]
    }  # fmt: skip
    assert rounds.pop(f"{stem}/WithoutBiases") is False
    assert rounds
    assert all(rounds.values())


def test_long_constants_are_halved_and_equal_ones_shared(rounded):
    before = answers(rounded, inputs(4))
    child.halve_constants(rounded)
    singles = [
        node.data for node in rounded.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32
    ]  # fmt: skip
    assert singles
    assert all(each.size < child.WORTH_HALVING for each in singles)
    child.share_constants(rounded)
    held = [
        (str(node.get_element_type()), tuple(node.shape), node.data.tobytes())
        for node in rounded.get_ordered_ops() if node.get_type_name() == "Constant"
    ]  # fmt: skip
    assert len(held) == len(set(held))
    assert np.abs(answers(rounded, inputs(4)) - before).max() < 0.02 * np.abs(before).max()


@pytest.mark.parametrize(
    ("size", "halved"), [(1e6, False), (3e-7, False), (1e-3, True), (100.0, True)]
)
def test_what_half_precision_cannot_hold_stays_single(size, halved):
    large = np.full((child.WORTH_HALVING,), size, np.float32)
    door = opset13.parameter([child.WORTH_HALVING], np.float32)
    model = openvino.Model([opset13.add(door, large)], [door])
    child.halve_constants(model)
    assert ("Convert" in kinds(model)) is halved


def test_the_slim_text_is_read_as_the_full_one(rounded, tmp_path):
    child.share_constants(rounded)
    child.drop_inner_names(rounded)
    target = tmp_path / "int8.xml"
    openvino.save_model(rounded, target, compress_to_fp16=False)
    plain = target.read_text(encoding="utf-8")
    short = child.slim(plain)
    assert len(short) < 0.7 * len(plain)
    target.write_text(short, encoding="utf-8")
    assert child.reads_alike(target, plain)
    read = openvino.Core().read_model(target)
    assert read.input(0).get_names() == {"images"}
    assert read.output(0).get_names() == {"logits"}
    assert np.array_equal(answers(read, inputs(4)), answers(rounded, inputs(4)))


@pytest.mark.parametrize(
    ("there", "instead"),
    [('pads_begin="1, 1"', 'pads_begin="0, 0"'), ('<port id="0"', '<port id="x"'),
     ('levels="256"', 'levels="255"'), ("</net>", "")],
)  # fmt: skip
def test_a_text_that_is_read_otherwise_is_found(rounded, tmp_path, there, instead):
    target = tmp_path / "int8.xml"
    openvino.save_model(rounded, target, compress_to_fp16=False)
    plain = target.read_text(encoding="utf-8")
    assert there in plain
    target.write_text(child.slim(plain).replace(there, instead, 1), encoding="utf-8")
    assert not child.reads_alike(target, plain)

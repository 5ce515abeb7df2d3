"""A layer's probe, built from its shape, makes what the layer made."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from capdeploy.export import probes
from capdeploy.graphfile import read
from capdeploy.observe.shapes import shapes

LAYERS = {
    "plain": nn.Conv2d(6, 10, 3, padding=1),
    "strided": nn.Conv2d(6, 10, 5, stride=(2, 1), padding=(2, 0)),
    "same": nn.Conv2d(6, 10, (4, 3), padding="same", dilation=2),
    "valid": nn.Conv2d(6, 10, 3, padding="valid"),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "grouped": nn.Conv2d(6, 4, 3, groups=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_probe_of_a_convolution_makes_maps_of_the_same_size(name, tmp_path):
    layer = LAYERS[name]
    image = torch.zeros(1, 6, 9, 7)
    ((shape, calls),) = shapes(nn.Sequential(layer), ["0"], image).values()
    probes.layer(shape, layer.out_channels, 6, tmp_path / "probe.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "probe.onnx")
    assert calls == 1
    assert read(tmp_path / "probe.onnx").input_shape == (1, probes.STEM, 9, 7)
    assert shape.output == layer(image).shape[2:]
    # The sizes of all maps are in the graph once shapes are inferred.
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "probe.onnx")).graph
    maps = {each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim]
            for each in graph.value_info}  # fmt: skip
    assert maps["relu3"] == list(layer(image).shape)
    (answer,) = session.run(None, {"images": np.ones((1, probes.STEM, 9, 7), np.float32)})
    assert answer.shape == (1, layer.out_channels)
    # Behind the layer nothing reads the whole map: that would be taken for the layer's own time.
    (reader,) = [node for node in graph.node if "relu3" in node.input]
    sizes = {each.name: each.ints for each in reader.attribute}
    assert reader.op_type == "MaxPool"
    assert max(sizes["kernel_shape"]) <= probes.CORNER
    assert maps[reader.output[0]] == [1, layer.out_channels, 1, 1]


def test_a_linear_layer_and_how_often_a_layer_runs(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(12, 5)

        def forward(self, images):
            return self.head(self.body(self.body(images)).flatten(1))

    found = shapes(Twice(), ["body", "head"], torch.zeros(1, 3, 2, 2))
    assert (found["body"][1], found["head"][1]) == (2, 1)
    assert found["head"][0].kind == "linear"
    for out in (None, 5):
        probes.layer(found["head"][0], out, 12, tmp_path / f"{out}.onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{out}.onnx")
        (answer,) = session.run(None, {"images": np.ones((1, probes.STEM, 1, 1), np.float32)})
        assert answer.shape == (1, out or 12)

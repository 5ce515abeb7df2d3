"""Tiny ONNX networks to time what a layer costs, and a channel more or less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from capdeploy.values.latency import LayerShape

BLOCKS = ("dense", "separable")
SIZE = 28
DEPTH = 3
STEM = 8
"""Channels of the input of a layer's probe."""
CORNER = 2
"""Rows and columns of it: a single value might lead a runtime to compute no other."""
OPSET, IR_VERSION = 18, 10


def build(block: str, width: int, path: Path) -> None:
    """Write a network of three equal blocks between a 3x3 stem and global average pooling.

    Parameters
    ----------
    block : str
        ``dense`` (3x3 convolution) or ``separable`` (3x3 depthwise, then 1x1); ReLU after each.
    width : int
        Channels of every layer, at least 1.
    path : Path
        The file to write; input (1, 3, 28, 28) float32, output (1, width).
    """
    square = LayerShape(kind="conv", height=SIZE, width=SIZE, kernel=(3, 3), pads=(1, 1, 1, 1))
    point = LayerShape(kind="conv", height=SIZE, width=SIZE)
    graph = _Graph(width, (3, SIZE, SIZE))
    graph.convolution(square, width)
    for _ in range(DEPTH):
        if block == "separable":
            graph.convolution(square.model_copy(update={"block": (1, 1)}), width)
            graph.convolution(point, width)
        else:
            graph.convolution(square, width)
    graph.pool()
    graph.write(path)


def layer(shape: LayerShape, out_channels: int | None, in_channels: int, path: Path) -> None:
    """Write a network of one layer, between a slight 1x1 convolution and a look at one corner.

    The convolution in front hands the layer its input as a network would, in the layout that the
    runtime likes; the same network without the layer tells what the rest costs. Behind it only a
    corner of each channel is read: pooling over the whole map would cost more, the wider the map
    is, and make widening layers look slow and narrowing ones fast.

    Parameters
    ----------
    shape : LayerShape
        How the layer runs.
    out_channels : int | None
        Its outputs; None: leave the layer out.
    in_channels : int
        Its inputs.
    path : Path
        The file to write; input (1, 8, H, W) float32.
    """
    graph = _Graph(in_channels, (STEM, shape.height, shape.width))
    graph.convolution(LayerShape(kind="conv", height=1, width=1), in_channels)
    if shape.kind == "linear":
        graph.flatten()
        if out_channels is not None:
            graph.linear(out_channels)
    else:
        size = (shape.height, shape.width)
        if out_channels is not None:
            graph.convolution(shape, out_channels)
            size = shape.output
        graph.corner(*size)
    graph.write(path)


def chain(operators: int, path: Path) -> None:
    """Write a row of convolutions so small that starting them is all they cost."""
    graph = _Graph(0, (STEM, 1, 1))
    for _ in range(operators):
        graph.convolution(LayerShape(kind="conv", height=1, width=1), STEM)
    graph.pool()
    graph.write(path)


class _Graph:
    def __init__(self, seed: int, images: tuple[int, int, int]) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._images = images
        self._last, self._channels = "images", images[0]

    def convolution(self, shape: LayerShape, wide_out: int) -> None:
        """Add a convolution and a ReLU."""
        groups = 1 if shape.block is None else wide_out // shape.block[0]
        weights = self._random_weights((wide_out, self._channels // groups, *shape.kernel))
        self._add(
            "Conv", weights, wide_out, kernel_shape=shape.kernel, pads=shape.pads,
            strides=shape.stride, dilations=shape.dilation, group=groups,
        )  # fmt: skip
        self._add("Relu", [], wide_out)

    def linear(self, wide_out: int) -> None:
        """Add a linear layer."""
        self._add("Gemm", self._random_weights((wide_out, self._channels)), wide_out, transB=1)

    def pool(self) -> None:
        """Add global average pooling, and flatten its result."""
        self._add("GlobalAveragePool", [], self._channels)
        self.flatten()

    def corner(self, height: int, width: int) -> None:
        """Keep the largest value in one corner of each channel, and flatten that."""
        kernel = (min(height, CORNER), min(width, CORNER))
        self._add("MaxPool", [], self._channels, kernel_shape=kernel, strides=(height, width))
        self.flatten()

    def flatten(self) -> None:
        """Make one row of each image's values."""
        self._add("Flatten", [], self._channels)

    def _random_weights(self, shape: tuple[int, ...]) -> list[str]:
        # He's scale keeps activations near 1: vanishing ones would become slow denormals.
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        values = self._random.standard_normal(shape, dtype=np.float32) * scale
        name = f"weights{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return [name]

    def _add(self, kind: str, weights: list[str], channels: int, **attributes: object) -> None:
        made = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self._last, *weights], [made], **attributes))
        self._last, self._channels = made, channels

    def write(self, path: Path) -> None:
        """Close the graph and save it."""
        self._nodes[-1].output[0] = "logits"
        kind = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("images", kind, [1, *self._images])
        answer = helper.make_tensor_value_info("logits", kind, [1, self._channels])
        graph = helper.make_graph(self._nodes, "probe", [image], [answer], self._weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        onnx.save(model, path)

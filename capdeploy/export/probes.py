"""Tiny ONNX networks of one width, to time what a channel more or less costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

BLOCKS = ("dense", "separable")
SIZE = 28
DEPTH = 3
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
    graph = _Graph(width)
    graph.convolution(3, width, kernel=3)
    for _ in range(DEPTH):
        if block == "separable":
            graph.convolution(width, width, kernel=3, groups=width)
            graph.convolution(width, width, kernel=1)
        else:
            graph.convolution(width, width, kernel=3)
    graph.write(width, path)


class _Graph:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._last = "images"

    def convolution(self, wide_in: int, wide_out: int, *, kernel: int, groups: int = 1) -> None:
        """Add a convolution that keeps the size, and a ReLU."""
        place = len(self._nodes)
        shape = (wide_out, wide_in // groups, kernel, kernel)
        # He's scale keeps activations near 1: vanishing ones would become slow denormals.
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights = (self._random.standard_normal(shape) * scale).astype(np.float32)
        name = f"weights{place}"
        self._weights.append(numpy_helper.from_array(weights, name))
        self._nodes.append(
            helper.make_node(
                "Conv", [self._last, name], [f"conv{place}"], kernel_shape=[kernel, kernel],
                pads=[kernel // 2] * 4, group=groups,
            )
        )  # fmt: skip
        self._nodes.append(helper.make_node("Relu", [f"conv{place}"], [f"relu{place}"]))
        self._last = f"relu{place}"

    def write(self, width: int, path: Path) -> None:
        """Close the graph with pooling and save it."""
        self._nodes += [
            helper.make_node("GlobalAveragePool", [self._last], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ]
        image = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE])
        answer = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, width])
        graph = helper.make_graph(self._nodes, "probe", [image], [answer], self._weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        onnx.save(model, path)

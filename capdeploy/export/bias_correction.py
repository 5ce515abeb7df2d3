"""What rounding shifts a layer's outputs by on average is taken off its biases.

Rounding errors of weights and activations do not cancel: every output channel is off by a mean,
which the layers behind take for signal. It is measured on calibration images and subtracted, layer
by layer in the order of execution, since what was taken off the layers before changes it.

Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
section 4.2 and appendix D (the empirical form).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from capdeploy.export.graph import Inputs, hearing

Means = npt.NDArray[np.float64]
LAYERS = frozenset({"Conv", "Gemm"})
BATCH = 8


def correct(exact: Path, rounded: Path, inputs: Inputs) -> None:
    """Correct the biases of a quantised graph, in place.

    Parameters
    ----------
    exact : Path
        The graph in single precision.
    rounded : Path
        The same quantised (QDQ), its layers by the same names; layers left in single precision
        are corrected for what comes before them.
    inputs : Inputs
        (N, 3, H, W) preprocessed images.
    """
    graph = onnx.load(exact)
    layers = {
        node.name: node.output[0]
        for node in graph.graph.node
        if node.op_type in LAYERS and len(node.input) > 2
    }
    wanted = dict(zip(layers, _means(graph, list(layers.values()), inputs), strict=True))
    made = onnx.load(rounded)
    readers = Counter(name for node in made.graph.node for name in node.input)
    for place, node in enumerate(made.graph.node):
        # Layers that share a bias would each shift the other's.
        if node.name in wanted and readers[node.input[2]] == 1:
            (found,) = _means(_until(made, place), [node.output[0]], inputs)
            _add(made.graph, node.input[2], wanted[node.name] - found)
    onnx.save(made, rounded)


def _until(model: onnx.ModelProto, place: int) -> onnx.ModelProto:
    """Copy a graph up to one of its nodes; a graph lists its nodes in the order of execution."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[place + 1 :]
    del part.graph.output[:]
    return part


def _means(model: onnx.ModelProto, names: Sequence[str], inputs: Inputs) -> list[Means]:
    """Average values over images and positions, (C,) each."""
    run = hearing(model, names)
    sums = [np.zeros(1)] * len(names)
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        values = run(batch)
        # The mean over positions, then the sum over images: batches may differ in size.
        sums = [
            before + value.reshape(*value.shape[:2], -1).mean(axis=2, dtype=np.float64).sum(axis=0)
            for before, value in zip(sums, values, strict=True)
        ]
    return [total / len(inputs) for total in sums]


def _add(graph: onnx.GraphProto, bias: str, shift: Means) -> None:
    """Add to a bias, which is stored as it is, or as whole multiples of a scale."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if bias in stored:
        value = numpy_helper.to_array(stored[bias])
        stored[bias].CopyFrom(numpy_helper.from_array(value + shift.astype(value.dtype), bias))
        return
    source = next(node for node in graph.node if bias in node.output)
    number, scale = (numpy_helper.to_array(stored[name]) for name in source.input[:2])
    limits = np.iinfo(number.dtype)
    moved = np.clip(number + np.round(shift / scale), limits.min, limits.max).astype(number.dtype)
    stored[source.input[0]].CopyFrom(numpy_helper.from_array(moved, source.input[0]))

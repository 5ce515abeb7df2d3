"""Graphs of candidates without the exporter: one network's graph, filled with another's weights.

The exporter spends its time on what is the same at every width: ten seconds for a MobileNetV2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxscript import optimizer

from capdeploy.export import graph, parity
from capdeploy.model import Model

IMAGES = 10
"""Random inputs on which a filled graph has to answer as the network does."""
ATOL = 1e-4
"""How far the answers may lie apart; as a share, where the largest one is above 1."""


@dataclass(frozen=True)
class Skeleton:
    """A graph in which every tensor of the state dict is an initializer that can be exchanged.

    Parameters
    ----------
    graph : onnx.ModelProto
        As the exporter leaves it unoptimized.
    names : frozenset[str]
        Of the state dict; networks with other names have other graphs.
    """

    graph: onnx.ModelProto
    names: frozenset[str]


def of(model: Model) -> Skeleton:
    """Take the graph of a network.

    Parameters
    ----------
    model : Model
        The network.

    Returns
    -------
    Skeleton
        What fits every network that differs in widths alone.

    Raises
    ------
    StepFailedError
        If the exporter fails.
    """
    found = graph.exported(model, optimize=False)
    del found.graph.value_info[:]
    names = frozenset(model.module.state_dict())
    for tensor in found.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")  # others' weights will stand here
    _free_flatten(found.graph)
    return Skeleton(found, names)


def fill(skeleton: Skeleton, model: Model, path: Path) -> bool:
    """Write a network's graph: the skeleton with its weights, optimized as an export is.

    Widths that the graph holds elsewhere (the shape of a channel shuffle, a padding of channels)
    stay as they were; so the answers are compared.

    Parameters
    ----------
    skeleton : Skeleton
        The graph of a network that differs in widths alone.
    model : Model
        The network.
    path : Path
        The file to write.

    Returns
    -------
    bool
        Whether the file was written and answers as the network does.
    """
    model = model.on("cpu")
    state = model.module.state_dict()
    if state.keys() != skeleton.names:
        return False
    filled = onnx.ModelProto()
    filled.CopyFrom(skeleton.graph)
    for tensor in filled.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    _regroup(filled.graph, model.module)
    filled.graph.output[0].type.tensor_type.shape.dim[1].dim_value = model.trace.outputs
    optimize = cast(Callable[[onnx.ModelProto], onnx.ModelProto], optimizer.optimize)
    try:
        with graph.quiet():
            filled = optimize(filled)
        onnx.save(filled, path)
        graph.finish(path, {})
        return _answers_alike(path, model)
    except Exception:
        # What does not fit fails in the words of the optimizer, onnx or a runtime, and means no
        # more than False: an export comes instead, and says what is wrong with the network itself.
        return False


def _answers_alike(path: Path, model: Model) -> bool:
    inputs = model.example(IMAGES)
    with torch.no_grad():
        expected = model.module.eval()(inputs).numpy()
    atol = ATOL * max(1.0, float(np.abs(expected).max()))
    return parity.check(path, inputs.numpy(), expected, stage="filled", atol=atol).holds


def _free_flatten(inner: onnx.GraphProto) -> None:
    """Let what flattens channels for the head take any number of them.

    The exporter writes the shape (batch, channels): the batch read from the image, the channels as
    they are.
    """
    makers = {name: node for node in inner.node for name in node.output}
    # The first dimension copied, the rest in one.
    flat = onnx.helper.make_node("Constant", [], ["capdeploy_flat"], value_ints=[0, -1])
    found = False
    for node in inner.node:
        shape = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or shape.op_type != "Concat" or len(shape.input) != 2:
            continue
        kinds = [makers[name].op_type for name in shape.input if name in makers]
        if len(kinds) == 2 and kinds[0] != "Constant" and kinds[1] == "Constant":
            node.input[1] = flat.output[0]
            del node.attribute[:]  # allowzero: a 0 means none otherwise
            found = True
    if found:
        inner.node.insert(0, flat)


def _regroup(inner: onnx.GraphProto, module: torch.nn.Module) -> None:
    """Let grouped convolutions have as many groups as the network has now."""
    layers = dict(module.named_modules())
    for node in inner.node:
        layer = (
            layers.get(node.input[1].removesuffix(".weight")) if node.op_type == "Conv" else None
        )
        for attribute in node.attribute:
            if attribute.name == "group" and isinstance(layer, torch.nn.Conv2d):
                attribute.i = layer.groups

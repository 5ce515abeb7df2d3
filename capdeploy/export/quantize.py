"""A graph in fewer bits for ONNX Runtime: its own static quantisation, and half precision.

Each runtime gets a file of its own: what one quantiser writes, the other's kernels may refuse
(NNCF's default on an ONNX graph with depthwise convolutions does not run in ONNX Runtime);
OpenVINO's are made in `for_openvino`.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from capdeploy.errors import StepFailedError
from capdeploy.export import bias_correction
from capdeploy.export.graph import INPUT, Inputs, hearing

ROUNDED = "_DequantizeLinear_Output"
HIDDEN = "_hidden"
SETTLING = 64
"""Images that biases are corrected by: means need fewer than ranges do."""


def onnx_int8(
    source: Path,
    target: Path,
    inputs: Inputs,
    *,
    exclude: Sequence[str] = (),
    reduce_range: bool = False,
    brief: bool = True,
) -> None:
    """Quantise a graph to 8 bits for ONNX Runtime.

    Parameters
    ----------
    source : Path
        The graph in single precision.
    target : Path
        The file to write: static QDQ, weights signed and per channel, activations unsigned, their
        range the least and largest of `inputs`; biases are corrected by some of these.
    inputs : Inputs
        (N, 3, H, W) preprocessed calibration images.
    exclude : Sequence[str]
        Nodes that stay in single precision.
    reduce_range : bool
        Use 7 bits for weights: without VNNI, x86 sums pairs of 8-bit products in 16 bits, which
        overflow.
    brief : bool
        Give inner values short names; those of the layers stay. The quantiser's own are a twentieth
        of a small network's file.

    Raises
    ------
    StepFailedError
        If the quantiser fails.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(inputs)

        def get_next(self) -> dict[str, Inputs] | None:
            image = next(self._rest, None)
            return None if image is None else {INPUT: image[None]}

    with _quiet(), tempfile.TemporaryDirectory(prefix="capdeploy-int8-") as folder:
        ready = Path(folder, "ready.onnx")
        try:
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            quantize_static(
                ready, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                reduce_range=reduce_range, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, nodes_to_exclude=list(exclude),
            )  # fmt: skip
            _leave_whole(target, exclude)
            bias_correction.correct(ready, target, inputs[:SETTLING])
        except Exception as error:  # the quantiser raises onnx's, numpy's and its own errors
            line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise StepFailedError(
                f"ONNX Runtime cannot quantise {source.name}: {type(error).__name__}: {line}"
            ) from error
    _keep_facts(source, target, brief=brief)


def _leave_whole(target: Path, exclude: Sequence[str]) -> None:
    """Hide from layers that stay in single precision that what they read was rounded.

    Behind a DequantizeLinear ONNX Runtime quantises a layer's weights after all when it opens the
    graph, with one scale for all of them. The largest of one value is that value, and no pass of
    its optimiser looks behind it; the layers around stay in 8 bits.
    """
    model = onnx.load(target)
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.name in exclude and node.input[0] in rounded:
            hidden = f"{node.name}{HIDDEN}"
            model.graph.node.insert(
                place, onnx.helper.make_node("Max", [node.input[0]], [hidden], name=hidden)
            )
            node.input[0] = hidden
    onnx.save(model, target)


def onnx_fp16(source: Path, target: Path) -> None:
    """Store a graph for ONNX Runtime on a GPU with weights and arithmetic in half precision.

    Parameters
    ----------
    source : Path
        The graph in single precision.
    target : Path
        The file to write; its input and its answer stay in single precision.

    Raises
    ------
    StepFailedError
        If the conversion fails.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        try:
            made = convert_float_to_float16(onnx.load(source), keep_io_types=True)
        except Exception as error:  # the converter raises onnx's, numpy's and its own errors
            raise StepFailedError(
                f"ONNX Runtime cannot halve {source.name}: {type(error).__name__}: {error}"
            ) from error
        onnx.save(made, target)
    _keep_facts(source, target)


def noisiest(source: Path, quantised: Path, inputs: Inputs) -> list[str]:
    """Order the layers of a graph by the noise that their own quantisation adds.

    Parameters
    ----------
    source : Path
        The graph in single precision.
    quantised : Path
        The same in 8 bits, as `onnx_int8` writes it with its long names.
    inputs : Inputs
        (N, 3, H, W) a few preprocessed images.

    Returns
    -------
    list[str]
        Convolutions and linear layers by node name; first the one whose output is off by most,
        relative to its size, beyond what its input was off by already.
    """
    graph = onnx.load(source).graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    # The quantiser drops an activation that rounding does as well, and its input with it.
    readers = {name: node.output[0] for node in graph.node for name in node.input
               if node.op_type in ("Relu", "Clip")}  # fmt: skip
    made = {name for node in onnx.load(quantised).graph.node for name in node.output}
    spoken = {}
    for node in layers:
        names = [node.output[0], readers.get(node.output[0], "")]
        rounded = [name for name in names if {name, f"{name}{ROUNDED}"} & made]
        if rounded:
            spoken[node.name] = rounded[0]
    heard = {node.name: node.input[0] for node in layers if node.name in spoken}
    wanted = list(dict.fromkeys([*spoken.values(), *heard.values()]))
    exact, rough = (_values(path, wanted, inputs) for path in (source, quantised))
    off = {
        name: float(
            np.linalg.norm(exact[name] - rough[name]) / (np.linalg.norm(exact[name]) + 1e-12)
        )
        for name in wanted if name in exact and name in rough
    }  # fmt: skip
    added = {name: off[spoken[name]] - off.get(heard[name], 0.0) for name in spoken}
    return sorted(added, key=lambda name: -added[name])


def _values(path: Path, names: Sequence[str], inputs: Inputs) -> dict[str, Inputs]:
    """Run a graph and return some of its inner values."""
    model = onnx.load(path)
    made = {name for node in model.graph.node for name in node.output} | {INPUT}
    # Quantised, a value goes by another name where it is rounded; both are looked for.
    wanted = {name: found for name in names
              if (found := next((each for each in (f"{name}{ROUNDED}", name)
                                 if each in made), None))}  # fmt: skip
    asked = [each for each in dict.fromkeys(wanted.values()) if each != INPUT]
    values = dict(zip(asked, hearing(model, asked)(inputs), strict=True)) | {INPUT: inputs}
    return {name: values[found] for name, found in wanted.items()}


def _keep_facts(source: Path, target: Path, *, brief: bool = False) -> None:
    """Carry our facts over, and leave no trace of where it was made."""
    facts = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    made = onnx.load(target)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, facts)
    if brief:
        _abbreviate(made.graph)
    onnx.save(made, target)


def _abbreviate(graph: onnx.GraphProto) -> None:
    """Leave out what no runtime needs: inner shapes, zeros, and long names of inner values."""
    del graph.value_info[:]
    _omit_zeros(graph)
    outside = {entry.name for entry in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def name(long: str) -> str:
        return long if long in outside else short.setdefault(long, f"{len(short):x}")

    for tensor in graph.initializer:
        # Raw, an integer takes its own four bytes; a negative one of a list is spelt out in ten.
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), name(tensor.name)))
    for node in graph.node:
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


def _omit_zeros(graph: onnx.GraphProto) -> None:
    """Leave out the zero points of convolutions' weights: they are 0, which is what none means.

    Those of linear layers stay: without them ONNX Runtime would compute in single precision.
    """
    zeros = {tensor.name for tensor in graph.initializer
             if not numpy_helper.to_array(tensor).any()}  # fmt: skip
    weights = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
    for node in graph.node:
        own = node.op_type == "DequantizeLinear" and node.output[0] in weights
        if own and zeros.issuperset(node.input[2:]):
            del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice from the user's terminal."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)

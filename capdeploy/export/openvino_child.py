"""OpenVINO's graphs in fewer bits, in a process of its own: quantised or halved, and slim.

Run as ``python -m capdeploy.export.openvino_child JOB``; the job is JSON: ``source`` (ONNX),
``target`` (``.xml``), ``inputs`` (``.npy``, or null for half precision) and ``exclude`` (names of
nodes that stay in single precision). The weights of a small network are few, and the text that
says what to do with them was half as large as they are. So nothing is written that says what is
known: activations that rounding does as well, constants twice, shapes that follow from others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

WORTH_HALVING = 128
"""Elements from which a constant in half precision saves more than its conversion's text takes."""


def main() -> None:
    """Make the graph that the job file in the arguments asks for."""
    # Its import alone would report home; without it OpenVINO takes a stub.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # Beyond reading, this folds constants and makes one clamp of a maximum and a minimum.
    model = openvino.convert_model(job["source"])
    whole = job["inputs"] is not None
    if whole:
        model = quantised(model, np.load(job["inputs"]), job["exclude"])
        without_idle_activations(model)
        halve_constants(model)
    share_constants(model)
    drop_inner_names(model)
    target = Path(job["target"])
    openvino.save_model(model, target, compress_to_fp16=not whole)
    plain = target.read_text(encoding="utf-8")
    target.write_text(slim(plain), encoding="utf-8")
    if not reads_alike(target, plain):
        target.write_text(plain, encoding="utf-8")


def quantised(model: Any, images: Any, exclude: list[str]) -> Any:
    """Quantise weights per channel and activations per layer, as for ONNX Runtime."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        QuantizationParameters,
    )

    return nncf.quantize(
        model, nncf.Dataset([image[None] for image in images]), subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=exclude, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            # Where biases are constants NNCF would correct them, which on few images did harm.
            disable_bias_correction=True,
            # Depthwise layers would get a range for every channel.
            activations_quantization_params=QuantizationParameters(per_channel=False),
        ),
    )  # fmt: skip


def without_idle_activations(model: Any) -> None:
    """Bypass a clamp or ReLU whose reader rounds into a range that lies within its own."""
    for rounding in _of_type(model, "FakeQuantize"):
        low, high = (rounding.input(port).get_source_output().get_node() for port in (1, 2))
        door = rounding.input(0)
        before = door.get_source_output().get_node()
        if before.get_type_name() == "Clamp":
            bounds = before.get_attributes()
            idle = bounds["min"] <= low.data.min() and high.data.max() <= bounds["max"]
        else:
            idle = before.get_type_name() == "Relu" and low.data.min() >= 0
        if idle:
            door.replace_source_output(before.input(0).get_source_output())


def halve_constants(model: Any) -> None:
    """Store scales, biases and what stays in floats in half precision, whose error is far less."""
    from openvino import opset13

    for constant in _of_type(model, "Constant"):
        values = constant.data
        if values.dtype == np.float32 and values.size >= WORTH_HALVING and _fits_half(values):
            half = opset13.convert(opset13.constant(values.astype(np.float16)), "f32")
            constant.output(0).replace(half.output(0))


def share_constants(model: Any) -> None:
    """Read equal constants from one place."""
    first: dict[tuple[object, ...], Any] = {}
    for constant in _of_type(model, "Constant"):
        kind = str(constant.get_element_type()), tuple(constant.shape), constant.data.tobytes()
        same = first.setdefault(kind, constant)
        if same is not constant:
            constant.output(0).replace(same.output(0))


def drop_inner_names(model: Any) -> None:
    """Give constants numbers for names, and inner tensors none; layers keep theirs."""
    doors = {each.get_tensor() for each in (*model.inputs, *model.outputs)}
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() in ("Constant", "Convert"):
            node.set_friendly_name(str(number))
        for output in node.outputs():
            if output.get_tensor() not in doors:
                output.get_tensor().set_names(set())


def slim(text: str) -> str:
    """Leave out of a graph's XML what its reader infers, skips or takes by default."""
    net = ElementTree.fromstring(text)
    for notes in net.findall("rt_info"):  # how it was made, which the manifest tells
        net.remove(notes)
    for port in net.iterfind("layers/layer//port"):
        port.text = None
        for size in port.findall("dim"):
            port.remove(size)
    for port in net.iterfind("layers/layer/input/port"):
        port.attrib.pop("precision", None)
    for data in net.iterfind("layers/layer/data"):
        if data.get("auto_broadcast") == "numpy":
            del data.attrib["auto_broadcast"]
    for element in net.iter():
        element.tail = None
        if len(element):
            element.text = None
    return ElementTree.tostring(net, encoding="unicode").replace(" />", "/>")


def reads_alike(target: Path, plain: str) -> bool:
    """Tell whether a graph is read as the same network as by its full text."""
    import openvino

    core, weights = openvino.Core(), target.with_suffix(".bin")
    full = core.read_model(plain.encode(), openvino.Tensor(np.fromfile(weights, np.uint8)))
    try:
        return described(core.read_model(target)) == described(full)
    except RuntimeError:  # a reader of another version may want what this one does not
        return False


def described(model: Any) -> list[tuple[str, ...]]:
    """List the layers by name, kind, attributes, and the shapes and types of what they give."""
    return sorted(
        (
            node.get_friendly_name(), node.get_type_name(), str(node.get_attributes()),
            *(f"{output.get_element_type()} {output.partial_shape}" for output in node.outputs()),
            *(each.get_source_output().get_node().get_friendly_name() for each in node.inputs()),
        )
        for node in model.get_ordered_ops()
    )  # fmt: skip


def _fits_half(values: Any) -> bool:
    return bool(np.abs(values).max() <= np.finfo(np.float16).max)


def _of_type(model: Any, name: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == name]


if __name__ == "__main__":
    main()

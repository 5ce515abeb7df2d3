"""OpenVINO's graphs in fewer bits, in a process of its own: quantised or halved, and slim.

Run as ``python -m capdeploy.export.openvino_child JOB``; the job is JSON: ``source`` (ONNX),
``target`` (``.xml``), ``inputs`` (``.npy``, or null for half precision) and ``exclude`` (names of
nodes that stay in single precision). The weights of a small network are few, and the text that
says what to do with them was half as large as they are. So nothing is written that says what is
known: activations that rounding does as well, constants twice, shapes that follow from others.
"""

from __future__ import annotations

import hashlib
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
    model = opened(job["source"])
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


def opened(source: str) -> Any:
    """Read an ONNX graph and compute what is known: each bias looks up its rank a dozen times.

    OpenVINO's own conversion does that too, but fuses layers under other names than ONNX's.
    """
    import openvino
    from openvino.passes import ConstantFolding, Manager

    model = openvino.Core().read_model(source)
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


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
    """Bypass activations whose only reader rounds into a range that lies within their own."""
    for rounding in _of_type(model, "FakeQuantize"):
        low, high = (_value(rounding.input(port)) for port in (1, 2))
        door = rounding.input(0)
        source = door.get_source_output()
        while len(source.get_target_inputs()) == 1:
            before = _around(source.get_node(), low, high)
            if before is None:
                break
            source = before
        door.replace_source_output(source)


def _around(activation: Any, low: Any, high: Any) -> Any:
    """Return what an activation reads if it changes no value within `low` and `high`, or None."""
    kind = activation.get_type_name()
    if low is None or high is None or kind not in ("Relu", "Clamp", "Maximum", "Minimum"):
        return None
    read = [(door.get_source_output(), _value(door)) for door in activation.inputs()]
    source, *rest = (output for output, value in read if value is None)
    least, most = -np.inf, np.inf
    if rest:  # the larger of two signals
        return None
    if kind == "Relu":
        least = 0.0
    elif kind == "Clamp":
        bounds = activation.get_attributes()
        least, most = bounds["min"], bounds["max"]
    else:
        [bound] = (value for _, value in read if value is not None)
        least, most = (bound.max(), most) if kind == "Maximum" else (least, bound.min())
    return source if least <= low.min() and high.max() <= most else None


def _value(door: Any) -> Any:
    """Return what a layer reads, if that is a constant."""
    source = door.get_source_output().get_node()
    return source.data if source.get_type_name() == "Constant" else None


def halve_constants(model: Any) -> None:
    """Store scales, biases and what stays in floats in half precision, whose error is far less."""
    from openvino import opset13

    for constant in _of_type(model, "Constant"):
        values = constant.data
        if values.dtype == np.float32 and values.size >= WORTH_HALVING:
            with np.errstate(over="ignore"):
                halved = values.astype(np.float16)
            if _near(halved.astype(np.float32), values):
                half = opset13.convert(opset13.constant(halved), "f32")
                constant.output(0).replace(half.output(0))


def _near(halved: Any, values: Any) -> bool:
    """Tell whether every error is a half's own, or far below a step of 8 bits of the largest."""
    sizes = np.abs(values)
    return bool(np.all(np.abs(halved - values) <= 2**-11 * sizes + 2**-16 * sizes.max()))


def share_constants(model: Any) -> None:
    """Read equal constants from one place."""
    first: dict[tuple[object, ...], Any] = {}
    for constant in _of_type(model, "Constant"):
        content = hashlib.sha256(constant.data.tobytes()).digest()
        kind = str(constant.get_element_type()), tuple(constant.shape), content
        same = first.setdefault(kind, constant)
        if same is not constant:
            constant.output(0).replace(same.output(0))


def drop_inner_names(model: Any) -> None:
    """Give constants numbers for names, and inner tensors none; layers keep theirs."""
    doors = [(door.get_tensor(), door.get_names()) for door in (*model.inputs, *model.outputs)]
    for number, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind == "Constant" or (kind == "Convert" and _value(node.input(0)) is not None):
            node.set_friendly_name(f"c{number}")
        for output in node.outputs():
            output.get_tensor().set_names(set())
    for tensor, names in doors:
        tensor.set_names(names)


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
    except Exception:  # whatever OpenVINO's reader raises, it did not read the same network
        return False


def described(model: Any) -> list[tuple[str, ...]]:
    """List the layers by name, kind, attributes, what they give and what they read."""
    return sorted(
        (
            node.get_friendly_name(), node.get_type_name(), str(node.get_attributes()),
            *(f"{output.get_element_type()} {output.partial_shape} {sorted(output.get_names())}"
              for output in node.outputs()),
            *(f"{source.get_node().get_friendly_name()} {source.get_index()}"
              for source in (each.get_source_output() for each in node.inputs())),
        )
        for node in model.get_ordered_ops()
    )  # fmt: skip


def _of_type(model: Any, name: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == name]


if __name__ == "__main__":
    main()

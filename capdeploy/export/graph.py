"""torch -> ONNX, with post-conditions: the exporter's success alone proves little."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from capdeploy.errors import StepFailedError
from capdeploy.model import Model

Inputs = npt.NDArray[np.float32]
OPSET = 18
INPUT, OUTPUT, BATCH = "images", "logits", "batch"
LARGEST = 2**31  # bytes of one protocol buffer


def export(model: Model, path: Path, facts: Mapping[str, str]) -> int:
    """Export a network to one ONNX file with a dynamic batch.

    Parameters
    ----------
    model : Model
        The network.
    path : Path
        The file to write.
    facts : Mapping[str, str]
        Written into the graph's ``metadata_props``.

    Returns
    -------
    int
        How many denormal weights were set to zero.

    Raises
    ------
    StepFailedError
        If the network is larger than an ONNX file can be, the exporter fails, or its file has
        another opset, a fixed batch, or external data.
    """
    onnx.save(exported(model), path)
    return finish(path, facts)


def exported(model: Model, *, optimize: bool = True) -> onnx.ModelProto:
    """Export a network, as the exporter leaves it.

    Parameters
    ----------
    model : Model
        The network.
    optimize : bool
        Fold batch norms and constants. Otherwise every entry of the state dict that is used is an
        initializer of its own name.

    Returns
    -------
    onnx.ModelProto
        The graph, in memory.

    Raises
    ------
    StepFailedError
        If the network is larger than an ONNX file can be, or the exporter fails.
    """
    model = model.on("cpu")
    size = 4 * sum(value.numel() for value in model.module.state_dict().values())
    if size >= LARGEST:
        raise StepFailedError(
            f"the network's weights are {size / 2**30:.1f} GiB, and one ONNX file holds at most "
            f"{LARGEST / 2**30:.0f}; cut more of it"
        )
    # A batch of one would be taken for a constant by the exporter.
    example = model.example(2)
    try:
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                model.module.eval(),
                (example,),
                dynamo=True,
                optimize=optimize,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: BATCH},),
                verbose=False,
            )
            found: onnx.ModelProto = program.model_proto
            return found
    except Exception as error:  # the exporter raises its own, torch's and onnx's errors
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StepFailedError(f"the ONNX exporter failed: {line}") from error


def finish(path: Path, facts: Mapping[str, str]) -> int:
    """Strip source paths from a graph, write our facts into it, and check what it must be.

    Parameters
    ----------
    path : Path
        The ONNX file; it is rewritten.
    facts : Mapping[str, str]
        Key and value pairs for ``metadata_props``.

    Returns
    -------
    int
        How many denormal weights were set to zero.

    Raises
    ------
    StepFailedError
        If the graph is not what was asked for.
    """
    graph = onnx.load(path)
    _strip(graph)
    flushed = sum(map(_flush, graph.graph.initializer))
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(facts))
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepFailedError(f"the exported graph is not valid ONNX: {error}") from error
    if opset(graph) < OPSET:
        raise StepFailedError(f"the exporter wrote opset {opset(graph)}, asked for {OPSET}")
    first = graph.graph.input[0].type.tensor_type.shape.dim[0]
    if not first.dim_param:
        raise StepFailedError(f"the exporter fixed the batch at {first.dim_value}")
    onnx.save(graph, path)
    return flushed


def _flush(tensor: onnx.TensorProto) -> int:
    """Zero the denormals of one tensor: they are slower by a factor and far below any rounding."""
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return 0
    values = onnx.numpy_helper.to_array(tensor)
    tiny = (values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)
    if tiny.any():
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(tiny, 0, values), tensor.name))
    return int(tiny.sum())


def opset(graph: onnx.ModelProto) -> int:
    """Read back the version of the default operator set."""
    versions = [entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}]
    return int(versions[0])


def describe(path: Path) -> tuple[int, int]:
    """Return a file's (opset, number of nodes)."""
    graph = onnx.load(path)
    return opset(graph), len(graph.graph.node)


def hearing(model: onnx.ModelProto, names: Sequence[str]) -> Callable[[Inputs], list[Inputs]]:
    """Open a graph in ONNX Runtime so that it answers with inner values.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph; the values become outputs of it.
    names : Sequence[str]
        Which values.

    Returns
    -------
    Callable[[Inputs], list[Inputs]]
        From (N, 3, H, W) preprocessed images to the values, in the order of their names.
    """
    import onnxruntime

    known = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known
    )
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it tells of every weight that a part of a graph does not use
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), quiet, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: session.run(list(names), {INPUT: inputs})


def _strip(graph: onnx.ModelProto) -> None:
    """Remove what tells of the machine that exported: source paths and stack traces."""
    graph.doc_string = ""
    parts = [graph.graph, *graph.functions]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
        for item in [*part.node, *part.value_info]:
            item.doc_string = ""
            del item.metadata_props[:]
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's and the optimizer's chatter from the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)

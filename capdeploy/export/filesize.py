"""How large the file is that a network is shipped in, facts and names and all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from capdeploy.errors import CapdeployError
from capdeploy.export import graph
from capdeploy.export.simplify import simplify
from capdeploy.model import Model


def file_size(model: Model, facts: Mapping[str, str], *, seconds: float) -> int:
    """Measure it by an export.

    Networks that differ in widths alone differ in their weights alone, so one export tells the
    sizes of all of them, to some bytes a layer.

    Parameters
    ----------
    model : Model
        The network.
    facts : Mapping[str, str]
        That will stand in the file.
    seconds : float
        Time limit of onnxsim.

    Returns
    -------
    int
        Bytes of its simplified graph.

    Raises
    ------
    StepFailedError
        If the exporter fails.
    """
    with tempfile.TemporaryDirectory(prefix="capdeploy-size-") as folder:
        path, simpler = Path(folder) / "graph.onnx", Path(folder) / "simplified.onnx"
        graph.export(model, path, facts)
        size = path.stat().st_size
        if simplify(path, simpler, seconds=seconds).applied:
            try:
                graph.finish(simpler, facts)
                size = simpler.stat().st_size
            except CapdeployError:  # then the graph is shipped as it was exported
                pass
    return size

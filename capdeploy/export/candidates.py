"""Graphs of candidates: exported once, filled for each width, rounded to the bits that count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from capdeploy.export import graph, quantize, skeleton
from capdeploy.export.skeleton import Skeleton
from capdeploy.model import Model

CALIBRATION = 4
"""Random inputs that ranges are read from: what a kernel takes does not depend on the numbers."""


@dataclass
class Writer:
    """Writes graphs of networks that differ in widths, mostly.

    Parameters
    ----------
    precision : str
        ``fp32``, ``fp16`` or ``int8``.
    runtime : str
        What runs them. OpenVINO computes in single precision from weights in half, so those stay as
        they are; 8 bits are ONNX Runtime's for both, which OpenVINO reads too.
    kinds : dict[frozenset[str], Skeleton | None]
        What was exported, by the names of the state dicts; None: widths are written in the graph,
        so that each network needs an export.
    """

    precision: str = "fp32"
    runtime: str = "onnxruntime"
    kinds: dict[frozenset[str], Skeleton | None] = field(default_factory=dict)

    def write(self, model: Model, path: Path) -> Path:
        """Write a network's graph, optimized and not simplified.

        Parameters
        ----------
        model : Model
            The network.
        path : Path
            The ONNX file to write.

        Returns
        -------
        Path
            What was written: this file, or one beside it in fewer bits.

        Raises
        ------
        StepFailedError
            If the exporter or the quantiser fails.
        """
        names = frozenset(model.module.state_dict())
        if names not in self.kinds:
            self.kinds[names] = skeleton.of(model)
        form = self.kinds[names]
        if form is None or not skeleton.fill(form, model, path):
            self.kinds[names] = None
            graph.export(model, path, {})
        return self._rounded(path, model)

    def _rounded(self, path: Path, model: Model) -> Path:
        target = path.with_name(f"{path.stem}.{self.precision}.onnx")
        if self.precision == "int8":
            quantize.onnx_int8(path, target, model.on("cpu").example(CALIBRATION).numpy())
        elif self.precision == "fp16" and self.runtime == "onnxruntime":
            quantize.onnx_fp16(path, target)
        else:
            return path
        return target

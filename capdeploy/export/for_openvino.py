"""A graph in fewer bits for OpenVINO: NNCF's quantisation, half precision; in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdeploy.errors import MissingExtraError, StepFailedError

Inputs = npt.NDArray[np.float32]
SECONDS = 900.0


def int8(source: Path, target: Path, inputs: Inputs, *, exclude: Sequence[str] = ()) -> None:
    """Quantise a graph to 8 bits for OpenVINO with NNCF, in a child process.

    Parameters
    ----------
    source : Path
        The ONNX graph in single precision.
    target : Path
        The ``.xml`` to write; its weights go beside it into ``.bin``.
    inputs : Inputs
        (N, 3, H, W) preprocessed calibration images.
    exclude : Sequence[str]
        Nodes that compute in single precision; their weights are stored in half.

    Raises
    ------
    MissingExtraError
        If OpenVINO or NNCF is not installed.
    StepFailedError
        If the quantiser fails.
    """
    _in_child(source, target, inputs, exclude)


def fp16(source: Path, target: Path) -> None:
    """Store a graph for OpenVINO with weights in half precision.

    The CPU computes in single precision all the same; a GPU or NPU computes in half.

    Parameters
    ----------
    source : Path
        The ONNX graph in single precision.
    target : Path
        The ``.xml`` to write; its weights go beside it into ``.bin``.

    Raises
    ------
    MissingExtraError
        If OpenVINO is not installed.
    StepFailedError
        If the conversion fails.
    """
    _in_child(source, target, None, ())


def _in_child(source: Path, target: Path, inputs: Inputs | None, exclude: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="capdeploy-int8-") as folder:
        images = Path(folder, "inputs.npy")
        if inputs is not None:
            np.save(images, inputs, allow_pickle=False)
        job = Path(folder, "job.json")
        job.write_text(json.dumps({
            "source": str(source), "target": str(target),
            # OpenVINO splits the bias off a layer and gives the layer itself this name.
            "exclude": [*exclude, *(f"{name}/WithoutBiases" for name in exclude)],
            "inputs": str(images) if inputs is not None else None,
        }), encoding="utf-8")  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "capdeploy.export.openvino_child", str(job)],
                capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
                env={**os.environ, "NNCF_CI": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise StepFailedError(f"quantising {source.name} took over {SECONDS:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        for package in ("nncf", "openvino"):
            if f"No module named '{package}'" in lines[-1]:
                raise MissingExtraError(package, "nncf" if package == "nncf" else "openvino")
        raise StepFailedError(f"OpenVINO cannot take {source.name}: {lines[-1]}")

"""A graph in fewer bits for OpenVINO, in a child process: NNCF's quantisation, half precision."""

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

_CHILD = """
import json, pathlib, re, sys
# Its import alone would report home.
sys.modules["openvino_telemetry"] = None
import numpy, openvino
from openvino.passes import ConstantFolding, Manager
job = json.loads(open(sys.argv[1]).read())
model = openvino.Core().read_model(job["source"])
# Every bias hangs on a dozen operators that look up its rank, which is known.
folding = Manager()
folding.register_pass(ConstantFolding())
folding.run_passes(model)
if job["inputs"] is not None:
    import nncf
    images = numpy.load(job["inputs"])
    model = nncf.quantize(
        model, nncf.Dataset([image[None] for image in images]), subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=job["exclude"], validate=False),
        # Where biases are constants NNCF would correct them, which on few images did harm.
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )
openvino.save_model(model, job["target"], compress_to_fp16=job["half"])
# Of a small network the text is a good part, and a sixth of that is indentation.
text = pathlib.Path(job["target"])
text.write_text(re.sub(r">\\s+<", "><", text.read_text(encoding="utf-8")), encoding="utf-8")
"""


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
        Nodes that stay in single precision.

    Raises
    ------
    MissingExtraError
        If OpenVINO or NNCF is not installed.
    StepFailedError
        If the quantiser fails.
    """
    _in_child(source, target, inputs, exclude, half=False)


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
    _in_child(source, target, None, (), half=True)


def _in_child(
    source: Path, target: Path, inputs: Inputs | None, exclude: Sequence[str], *, half: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="capdeploy-int8-") as folder:
        images = Path(folder, "inputs.npy")
        if inputs is not None:
            np.save(images, inputs, allow_pickle=False)
        job = Path(folder, "job.json")
        job.write_text(json.dumps({
            "source": str(source), "target": str(target), "half": half,
            # OpenVINO splits the bias off a layer and gives the layer itself this name.
            "exclude": [*exclude, *(f"{name}/WithoutBiases" for name in exclude)],
            "inputs": str(images) if inputs is not None else None,
        }), encoding="utf-8")  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _CHILD, str(job)], capture_output=True, text=True,
                errors="replace", timeout=SECONDS, check=False, env={**os.environ, "NNCF_CI": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise StepFailedError(f"quantising {source.name} took over {SECONDS:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        for package in ("nncf", "openvino"):
            if f"No module named '{package}'" in lines[-1]:
                raise MissingExtraError(package, "nncf" if package == "nncf" else "openvino")
        raise StepFailedError(f"OpenVINO cannot take {source.name}: {lines[-1]}")

"""Proof that a graph answers as the network does, on real images and at several batch sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from capdeploy.errors import ParityError
from capdeploy.export.graph import INPUT
from capdeploy.values.artifact import Parity

BATCHES = (1, 2, 7)


def check(
    path: Path,
    inputs: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    *,
    stage: str,
    atol: float,
) -> Parity:
    """Compare a graph's answers with the network's.

    Parameters
    ----------
    path : Path
        The ONNX file.
    inputs : npt.NDArray[np.float32]
        (N, 3, H, W) preprocessed images, N at least 10.
    expected : npt.NDArray[np.float32]
        (N, k) the network's logits.
    stage : str
        What to call the result.
    atol : float
        Largest absolute error that is accepted.

    Returns
    -------
    Parity
        The worst over batches of 1, 2 and 7, which together cover every image.

    Raises
    ------
    ParityError
        If the graph refuses one of the batch sizes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        line = str(error).splitlines()[0]
        raise ParityError(f"{stage} graph cannot be opened: {line}") from error
    answers = np.empty_like(expected)
    start, turn = 0, 0
    while start < len(inputs):
        size = BATCHES[turn % len(BATCHES)]
        try:
            (logits,) = session.run(None, {INPUT: inputs[start : start + size]})
        except Exception as error:  # onnxruntime's exceptions share no public base class
            line = str(error).splitlines()[0]
            raise ParityError(f"{stage} graph fails at batch {size}: {line}") from error
        answers[start : start + size] = logits
        start, turn = start + size, turn + 1
    return Parity.between(answers, expected, stage=stage, atol=atol)

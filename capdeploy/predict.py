"""What a bundle says to images, with a confidence, and when it says that it knows none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import Bundle
from capdeploy.errors import MissingDeviceError
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.answer import Answer
from capdeploy.values.trust import Trust, outsider_scores, probabilities


def predict(
    bundle: Bundle,
    images: npt.NDArray[np.uint8],
    *,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int = 1,
) -> tuple[Answer, ...]:
    """Answer images.

    Parameters
    ----------
    bundle : Bundle
        The network, in the precision that it was opened in.
    images : npt.NDArray[np.uint8]
        (N, H, W, 3) RGB at the bundle's input size.
    runtime : str
        What runs it.
    device : str
        Where.
    threads : int
        Of the runtime.

    Returns
    -------
    tuple[Answer, ...]
        One for each image, in order.

    Raises
    ------
    MissingDeviceError
        If the device is not here.
    MissingExtraError
        If the runtime is not installed.
    """
    shelf = RUNTIMES.load(runtime)
    if device not in shelf.devices():
        raise MissingDeviceError(f"no such device: {shelf.title} sees no {device} here")
    session: Any = shelf.open(bundle, device, threads)
    inputs = bundle.manifest.preprocessing.apply(images)
    logits = np.concatenate([session.run(inputs[at : at + 1]) for at in range(len(inputs))])
    session.close()
    return answers(bundle, logits)


def answers(bundle: Bundle, logits: npt.NDArray[np.float32]) -> tuple[Answer, ...]:
    """Read logits, (N, outputs), as a bundle means them."""
    manifest = bundle.manifest
    kept = logits if manifest.head_cut else logits[:, list(manifest.classes.kept)]
    trust = manifest.trust or Trust(
        temperature=1.0, calibration_images=1, ece_before=0.0, ece_after=0.0
    )
    chances = probabilities(kept, trust.temperature)
    rejection = trust.rejection
    scores = outsider_scores(kept, rejection.score if rejection is not None else "energy")
    found = []
    for row, score in zip(chances, scores, strict=True):
        best = int(row.argmax())
        found.append(
            Answer(
                label=manifest.classes.names[best],
                confidence=float(row[best]),
                calibrated=manifest.trust is not None,
                score=float(score),
                rejected=rejection is not None and score < rejection.threshold,
            )
        )
    return tuple(found)

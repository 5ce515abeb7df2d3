"""What a bundle says to images, with a confidence, and when it says that it knows none of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import Bundle
from capdeploy.errors import MissingDeviceError, UntrustedError
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.answer import Answer
from capdeploy.values.trust import Trust, outsider_scores, probabilities


def predict(
    bundle: Bundle,
    images: Iterable[npt.NDArray[np.uint8]],
    *,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int = 1,
    trust_factory: bool = False,
) -> tuple[Answer, ...]:
    """Answer images.

    Parameters
    ----------
    bundle : Bundle
        The network, in the precision that it was opened in.
    images : Iterable[npt.NDArray[np.uint8]]
        (H, W, 3) RGB each, at the bundle's input size; at least one.
    runtime : str
        What runs it.
    device : str
        Where.
    threads : int
        Of the runtime.
    trust_factory : bool
        Allow the bundle to name code of its own that builds its network.

    Returns
    -------
    tuple[Answer, ...]
        One for each image, in order.

    Raises
    ------
    UntrustedError
        If opening the bundle would call code that is not trusted.
    MissingDeviceError
        If the device is not here.
    MissingExtraError
        If the runtime is not installed.
    """
    shelf = RUNTIMES.load(runtime)
    if device not in shelf.devices():
        raise MissingDeviceError(f"no such device: {shelf.title} sees no {device} here")
    if not trust_factory and (code := shelf.foreign_code(bundle)) is not None:
        raise UntrustedError(
            f"{bundle.folder}: its network is built by {code}; add --trust-factory if you trust it"
        )
    apply = bundle.manifest.preprocessing.apply
    session: Any = shelf.open(bundle, device, threads)
    with closing(session):
        # One by one: a board has not the memory for the inputs of all of them.
        logits = np.concatenate([session.run(apply(image[None])) for image in images])
    return answers(bundle, logits)


def answers(bundle: Bundle, logits: npt.NDArray[np.float32]) -> tuple[Answer, ...]:
    """Read logits, (N, outputs), as a bundle means them.

    Where the head is whole, its other outputs compete: an image that one of them wins is of no
    kept class.
    """
    manifest = bundle.manifest
    trust, names = _trust(bundle), manifest.classes.names
    kept = list(range(len(names)) if manifest.head_cut else manifest.classes.kept)
    rejection = trust.rejection if trust is not None else None
    chances = probabilities(logits, trust.temperature if trust is not None else 1.0)
    if rejection is not None and rejection.score == "reject output":
        scores = outsider_scores(logits, rejection.score, manifest.reject_output)
    else:
        scores = outsider_scores(logits[:, kept], rejection.score if rejection else "energy")
    found = []
    for row, score in zip(chances, scores, strict=True):
        best = int(row[kept].argmax())
        below = rejection is not None and score < rejection.threshold
        found.append(
            Answer(
                label=names[best],
                confidence=float(row[kept][best]),
                calibrated=trust is not None,
                score=float(score),
                rejected=bool(below or int(row.argmax()) not in kept),
            )
        )
    return tuple(found)


def _trust(bundle: Bundle) -> Trust | None:
    """Choose what was fitted to the graph that is open; before that was done, to fp32's."""
    own = (each.trust for each in bundle.manifest.quantized if each.files == bundle.graphs)
    return next(own, None) or bundle.manifest.trust

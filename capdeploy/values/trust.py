"""How far answers can be trusted: calibrated confidence, and images of no kept class."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from capdeploy.values.noun import Noun

Score = Literal["max logit", "energy", "reject output"]
Logits = npt.NDArray[np.float32]


def outsider_scores(
    logits: Logits, score: Score, reject: int | None = None
) -> npt.NDArray[np.float64]:
    """Score how much an image looks like one of the kept classes; higher is more.

    Parameters
    ----------
    logits : Logits
        (N, k), or (N, k + 1) with a reject output.
    score : Score
        Of the kept classes' outputs ``max logit``, or ``energy``: the logarithm of the sum of
        exponentials, (minus) the free energy; ``reject output``: how far the highest of them is
        above that output, so that below 0 it wins.
    reject : int | None
        The reject output, if there is one.

    Returns
    -------
    npt.NDArray[np.float64]
        (N,).

    References
    ----------
    Hendrycks et al., Scaling out-of-distribution detection for real-world settings, ICML 2022;
    Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020.
    """
    every = logits.astype(np.float64)
    values = every if reject is None else np.delete(every, reject, axis=1)
    highest: npt.NDArray[np.float64] = values.max(axis=1)
    if score == "max logit":
        return highest
    if score == "reject output":
        if reject is None:
            raise ValueError("there is no reject output")
        margin: npt.NDArray[np.float64] = highest - every[:, reject]
        return margin
    found: npt.NDArray[np.float64] = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    return found


def probabilities(logits: Logits, temperature: float) -> npt.NDArray[np.float64]:
    """Turn logits into probabilities at a temperature, (N, k)."""
    values = logits.astype(np.float64) / temperature
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return found


class Rejection(Noun):
    """When an image is taken for one of no kept class."""

    score: Score = Field(
        description="the reject output if there is one, else the better of both others by AUROC, "
        "on images of the training part"
    )
    threshold: float = Field(description="below it, an image is rejected")
    auroc: dict[Score, float] = Field(description="of each, test split")
    false_accepts: dict[Score, float] = Field(
        default_factory=dict,
        description="share of dropped-class test images accepted where each score accepts 95 % of "
        "the kept-class test images (FPR at 95 % TPR)",
    )
    accepted_kept: float = Field(ge=0, le=1, description="share of kept-class test images accepted")
    accepted_dropped: float = Field(
        ge=0, le=1, description="share of dropped-class test images accepted all the same"
    )
    kept_images: int = Field(gt=0)
    dropped_images: int = Field(gt=0)
    taken_for: tuple[int, ...] = Field(
        description="dropped-class test images by the kept class that they are taken for"
    )


class Trust(Noun):
    """Confidence that means what it says, and a threshold for everything else."""

    temperature: float = Field(gt=0, description="that logits are divided by")
    calibration_images: int = Field(gt=0, description="held-out images that it was fitted on")
    ece_before: float = Field(ge=0, le=1, description="expected calibration error, test split")
    ece_after: float = Field(ge=0, le=1)
    rejection: Rejection | None = Field(
        default=None, description="None where the data has no other classes"
    )

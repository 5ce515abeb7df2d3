"""Fits a temperature and a threshold to a finished network; its answers stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score

from capdeploy.errors import StepFailedError
from capdeploy.model import Model
from capdeploy.samples import Images
from capdeploy.train.evaluate import answered
from capdeploy.values.trust import (
    Logits,
    Rejection,
    Score,
    Trust,
    outsider_scores,
    probabilities,
)

Answers = Callable[[Images], Logits]
"""Answers images with logits, (N, outputs): a network, or one of its graphs in a runtime."""
BINS = 15
ACCEPTED = 0.95
"""Share of held-out kept-class images that the threshold accepts."""
COLDEST, HOTTEST = 0.05, 20.0
SCORES: tuple[Score, ...] = ("max logit", "energy")
OUTPUT: Score = "reject output"


def temperature(logits: Logits, targets: npt.NDArray[np.int64]) -> float:
    """Find the temperature at which the targets are likeliest.

    Parameters
    ----------
    logits : Logits
        (N, k) answers to held-out images.
    targets : npt.NDArray[np.int64]
        (N,) right outputs.

    Returns
    -------
    float
        Between 0.05 and 20; at least 1 where every answer is right, as nothing then tells how
        much bolder it may be.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.
    """
    rows = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        chances = probabilities(logits, float(np.exp(log_temperature)))[rows, targets]
        return -float(np.log(np.maximum(chances, 1e-300)).mean())

    bounds = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    found = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
    return max(1.0, found) if (logits.argmax(axis=1) == targets).all() else found


def calibration_error(chances: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> float:
    """Compute the expected calibration error over 15 bins of equal width.

    Parameters
    ----------
    chances : npt.NDArray[np.float64]
        (N, k) probabilities.
    targets : npt.NDArray[np.int64]
        (N,) right outputs.

    Returns
    -------
    float
        Mean distance of confidence and accuracy, 0..1, bins weighted by their images.

    References
    ----------
    Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
    """
    confidence = chances.max(axis=1)
    right = chances.argmax(axis=1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == each].mean() - confidence[bins == each].mean()) * (bins == each).sum()
        for each in np.unique(bins)
    ]
    return float(sum(gaps) / len(targets))


def fit(
    answers: Answers,
    held_out: Images,
    others: Images | None,
    test: Images,
    test_others: Images | None,
    *,
    reject: int | None,
) -> Trust:
    """Fit temperature and threshold on images of the training part, and judge both on the test.

    Parameters
    ----------
    answers : Answers
        Of the finished network, its head cut, or of one of its graphs.
    held_out : Images
        Validation images of the kept classes.
    others : Images | None
        Images of dropped classes, of the training part.
    test : Images
        The test split.
    test_others : Images | None
        Images of dropped classes of the test split.
    reject : int | None
        Its output for images of no kept class, if it has one.

    Returns
    -------
    Trust
        What `capdeploy predict` goes by.

    Raises
    ------
    StepFailedError
        If answers are infinite, or no numbers.
    """
    inside, targets = _finite(answers(held_out)), held_out.labels
    found = temperature(inside, targets)
    judged = _finite(answers(test))
    rejection = None
    if others is not None and test_others is not None:
        outside, judged_outside = (_finite(answers(each)) for each in (others, test_others))
        rejection = _rejection(inside, outside, judged, judged_outside, reject)
    return Trust(
        temperature=found,
        calibration_images=len(held_out),
        ece_before=calibration_error(probabilities(judged, 1.0), test.labels),
        ece_after=calibration_error(probabilities(judged, found), test.labels),
        rejection=rejection,
    )


def _finite(logits: Logits) -> Logits:
    if not np.isfinite(logits).all():
        raise StepFailedError("some answers are no numbers, or infinite")
    return logits


def _rejection(
    inside: Logits, outside: Logits, test: Logits, test_outside: Logits, reject: int | None
) -> Rejection:
    if reject is None:
        scores, best = SCORES, max(SCORES, key=lambda score: auroc(inside, outside, score))
        threshold = float(np.quantile(outsider_scores(inside, best), 1 - ACCEPTED))
    else:  # the output says by itself when it wins
        scores, best, threshold = (*SCORES, OUTPUT), OUTPUT, 0.0
    accepted = [float((outsider_scores(each, best, reject) >= threshold).mean())
                for each in (test, test_outside)]  # fmt: skip
    named = test_outside if reject is None else np.delete(test_outside, reject, axis=1)
    taken = np.bincount(named.argmax(axis=1), minlength=named.shape[1])
    return Rejection(
        score=best, threshold=threshold,
        auroc={score: auroc(test, test_outside, score, reject) for score in scores},
        false_accepts={
            score: false_accepts(test, test_outside, score, reject) for score in scores
        },
        accepted_kept=accepted[0], accepted_dropped=accepted[1],
        kept_images=len(test), dropped_images=len(test_outside),
        taken_for=tuple(int(count) for count in taken),
    )  # fmt: skip


def false_accepts(
    inside: Logits, outside: Logits, score: Score, reject: int | None = None
) -> float:
    """Compute the share of dropped-class images accepted where 95 % of the kept-class ones are."""
    threshold = np.quantile(outsider_scores(inside, score, reject), 1 - ACCEPTED)
    return float((outsider_scores(outside, score, reject) >= threshold).mean())


def auroc(inside: Logits, outside: Logits, score: Score, reject: int | None = None) -> float:
    """Compute the chance that a kept-class image scores higher than a dropped-class one."""
    scores = np.concatenate([outsider_scores(each, score, reject) for each in (inside, outside)])
    return float(roc_auc_score([1] * len(inside) + [0] * len(outside), scores))


def of_model(model: Model, batch_size: int) -> Answers:
    """Let a network answer by itself, in batches."""

    def answers(images: Images) -> Logits:
        found: Logits = np.concatenate(
            [logits.numpy() for logits, _ in answered(model, images, batch_size)]
        )
        return found

    return answers

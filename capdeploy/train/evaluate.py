"""Accuracy on labelled images, per class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from capdeploy.model import Model, require_classes
from capdeploy.observe.taps import evaluating
from capdeploy.samples import Images
from capdeploy.values.accuracy import Accuracy, Confusion


def accuracy(
    model: Model, images: Images, *, stage: str, batch_size: int, masked: bool = False
) -> Accuracy:
    """Measure top-1 accuracy.

    Parameters
    ----------
    model : Model
        A network with its full head or its head cut.
    images : Images
        Labelled images of the kept classes.
    stage : str
        What to call the result.
    batch_size : int
        Images per pass.
    masked : bool
        With a full head: answer only among the kept classes.

    Returns
    -------
    Accuracy
        Right answers per class.
    """
    classes = require_classes(model)
    right = []
    for answers, labels in answered(model, images, batch_size):
        logits, targets = answers, model.targets(labels)
        if masked and not model.head_cut:
            logits, targets = answers[:, list(classes.kept)], labels
        right.append((logits.argmax(dim=1) == targets).numpy())
    return Accuracy.counted(stage, classes.names, images.labels, np.concatenate(right))


@dataclass(frozen=True)
class Tally:
    """All that one pass over labelled images tells.

    Parameters
    ----------
    accuracy : Accuracy
        Right answers per class.
    confusion : Confusion
        Answers among the kept classes by true class.
    right : npt.NDArray[np.bool_]
        (N,) whether each image's answer is right.
    """

    accuracy: Accuracy
    confusion: Confusion
    right: npt.NDArray[np.bool_]


def tally(model: Model, images: Images, *, stage: str, batch_size: int) -> Tally:
    """Measure top-1 accuracy and count which class is taken for which, in one pass.

    Parameters
    ----------
    model : Model
        A network with its full head or its head cut.
    images : Images
        Labelled images of the kept classes.
    stage : str
        What to call the result.
    batch_size : int
        Images per pass.

    Returns
    -------
    Tally
        Accuracy, confusion, and each image's own outcome.
    """
    classes = require_classes(model)
    right = []
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    # A whole head may answer with a class that is not kept; that is no column.
    outputs = range(len(classes)) if model.head_cut else classes.kept
    places = np.full(model.trace.outputs, -1)
    places[list(outputs)] = np.arange(len(classes))
    for answers, labels in answered(model, images, batch_size):
        said = answers.argmax(dim=1).numpy()
        known = places[said] >= 0
        np.add.at(counts, (labels.numpy()[known], places[said[known]]), 1)
        right.append((answers.argmax(dim=1) == model.targets(labels)).numpy())
    hits = np.concatenate(right)
    found = Accuracy.counted(stage, classes.names, images.labels, hits)
    return Tally(found, tuple(tuple(int(count) for count in row) for row in counts), hits)


def answered(model: Model, images: Images, batch_size: int) -> list[tuple[torch.Tensor, ...]]:
    """Return (logits, labels) of every batch, (n, outputs) float32 and (n,) int64."""
    with torch.no_grad(), evaluating(model.module):
        return [
            (model.module(batch.to(model.device)).float().cpu(), labels)
            for batch, labels in images.batches(batch_size)
        ]

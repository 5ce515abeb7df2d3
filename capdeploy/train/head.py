"""Cut the classifier to the kept classes, by an explicit id map, before anything is scored."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from capdeploy.errors import ArchitectureError
from capdeploy.model import Model
from capdeploy.observe.taps import evaluating
from capdeploy.rebuild import narrow
from capdeploy.values.classes import ClassSubset
from capdeploy.values.plan import LayerCut

TOLERANCE = 1e-5


def cut_of(model: Model, classes: ClassSubset) -> LayerCut:
    """Write down the head's cut: output i of the new head is class ``classes.kept[i]``."""
    return LayerCut(layer=model.head, kept_out=classes.kept)


def cut(model: Model, classes: ClassSubset) -> Model:
    """Cut the head to the kept classes, and prove that the remaining answers are the same.

    Parameters
    ----------
    model : Model
        The network with its full head, linear or 1x1 convolution; it is left as it was.
    classes : ClassSubset
        Kept classes in output order.

    Returns
    -------
    Model
        A copy whose output i is the full network's output ``classes.kept[i]``.

    Raises
    ------
    ArchitectureError
        If the answers differ by more than 1e-5 of their scale: then the layer found was not the
        head alone.
    """
    module = model.copy_module()
    narrow(module, [cut_of(model, classes)])
    smaller = model.with_module(module, classes=classes, head_cut=True)
    error = _change(model.module, smaller.module, classes, model.example())
    if not error <= TOLERANCE:
        # Large features that cancel each other round by more: in double precision they do not.
        double = model.copy_module().double(), smaller.copy_module().double()
        with contextlib.suppress(RuntimeError):  # a user's own may insist on single precision
            error = _change(*double, classes, model.example().double())
    if not error <= TOLERANCE:
        raise ArchitectureError(
            f"cutting layer {model.head} changes the kept answers by {error:.2g}; "
            "it is not the classifier head, use --keep-head"
        )
    return smaller


def _change(
    full: nn.Module, smaller: nn.Module, classes: ClassSubset, example: torch.Tensor
) -> float:
    """Measure how far the kept answers are from what they were, a share of their scale."""
    with torch.no_grad(), evaluating(full), evaluating(smaller):
        expected = full(example)[:, list(classes.kept)]
        found = smaller(example)
    return float((expected - found).abs().max()) / max(1.0, float(expected.abs().max()))

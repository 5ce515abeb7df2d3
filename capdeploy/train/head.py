"""Cut the classifier to the kept classes, by an explicit id map, before anything is scored."""

from __future__ import annotations

import torch

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
    with torch.no_grad():
        example = model.example()
        with evaluating(model.module), evaluating(smaller.module):
            expected = model.module(example)[:, list(classes.kept)]
            found = smaller.module(example)
    error = float((expected - found).abs().max())
    if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ArchitectureError(
            f"cutting layer {model.head} changes the kept answers by {error:.2g}; "
            "it is not the classifier head, use --keep-head"
        )
    return smaller

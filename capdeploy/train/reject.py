"""One more output for everything that is none of the kept classes, learnt from dropped classes.

The output is a row of the classifier head, fitted on what the head reads: a logistic regression
against the kept classes' own outputs, whose weights stay as they are bit for bit. So nothing that
the network says of a kept class changes but for the images that the new output wins. Where the
regression would draw its line, in the middle between the images that it was shown, new images of
the kept classes fall on the wrong side (measured: docs/decisions/0016); so the line is moved away
from them, until a few of the dropped classes' images pass.

In the plan the head keeps the place of one dropped class for it, so that a bundle with such an
output is rebuilt like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import nn

from capdeploy.errors import ConfigError
from capdeploy.model import Model, require_classes
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.samples import Images, Samples
from capdeploy.values.classes import ClassSubset
from capdeploy.values.cost import Cost
from capdeploy.values.plan import PruningPlan

RIDGE = 1e-3
"""Penalty of the row's squared length, inputs brought to variance 1."""
MOST = 16384
"""Images of each side: what the head reads of all of them is held in memory."""
PASSED = 0.02
"""Share of the dropped classes' training images that the output lets pass."""
Floats = npt.NDArray[np.float64]


def require(model: Model, images: Samples) -> None:
    """Stop before any work if a network cannot be given such an output.

    Parameters
    ----------
    model : Model
        The network as it came, its classes chosen.
    images : Samples
        Have to hold some of dropped classes.

    Raises
    ------
    ConfigError
        If its head is no linear layer with a bias, or has no output besides the kept classes'.
    """
    kept, outputs = len(require_classes(model)), model.trace.outputs
    layer = model.module.get_submodule(model.head)
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise ConfigError(
            f"--reject-class needs a linear head with a bias, and {model.head} is "
            f"{'one without' if isinstance(layer, nn.Linear) else 'a convolution'}; leave it out: "
            "the threshold that is fitted without it does the same work"
        )
    if outputs <= kept:
        raise ConfigError(
            f"--reject-class needs an output that is not kept, and all {outputs} are; keep fewer "
            "--classes"
        )
    if np.isin(images.dataset.labels("train"), images.data_classes).all():
        raise ConfigError(
            "--reject-class learns from images of dropped classes, and the data has none; leave it "
            "out, or add some"
        )


def extended(plan: PruningPlan, head: str, classes: ClassSubset, after: Cost) -> PruningPlan:
    """Let a plan keep one more output of the head, that of the first dropped class.

    Parameters
    ----------
    plan : PruningPlan
        Cuts the head to the kept classes.
    head : str
        The head's name.
    classes : ClassSubset
        The kept classes.
    after : Cost
        What the network costs with it.

    Returns
    -------
    PruningPlan
        The same but for the head; the added output comes last.
    """
    spare = next(each for each in range(classes.total) if each not in classes.kept)
    layers = tuple(
        cut.model_copy(update={"kept_out": (*(cut.kept_out or ()), spare)})
        if cut.layer == head else cut
        for cut in plan.layers
    )  # fmt: skip
    return plan.model_copy(update={"layers": layers, "after": after})


def add(model: Model, kept: Images, others: Images, *, batch_size: int) -> Model:
    """Add an output that wins where an image is of none of the kept classes.

    Parameters
    ----------
    model : Model
        The finished network, its head cut and linear; it is left as it was.
    kept : Images
        Training images of the kept classes.
    others : Images
        Training images of dropped classes; each side counts half in all, and at most `MOST` of its
        images are read.
    batch_size : int
        Images per pass.

    Returns
    -------
    Model
        A copy with k + 1 outputs; the weights of the first k are as they were.

    References
    ----------
    Hendrycks et al., Deep anomaly detection with outlier exposure, ICLR 2019, for the use of images
    of other classes; here they train a single linear output.
    """
    kept, others = kept.take(MOST, seed=0), others.only(np.arange(min(MOST, len(others))))
    features, answers = _read(model, [kept, others], batch_size)
    weight, bias = fit(features, answers, len(kept))
    module = model.copy_module()
    head = module.get_submodule(model.head)
    rows = torch.from_numpy(weight).to(head.get_parameter("weight"))[None]
    head.weight = nn.Parameter(torch.cat([head.get_parameter("weight").detach(), rows]))
    whole = head.get_parameter("bias").detach()
    head.bias = nn.Parameter(torch.cat([whole, torch.tensor([bias]).to(whole)]))
    head.out_features = answers.shape[1] + 1
    return model.with_module(module)


def fit(features: Floats, answers: Floats, kept: int) -> tuple[Floats, float]:
    """Fit the row: the chance that it wins against all other outputs is a logistic function.

    Its bias is set afterwards, so that `PASSED` of the other images are not won.

    Parameters
    ----------
    features : Floats
        (N, C) what the head reads.
    answers : Floats
        (N, k) what it says.
    kept : int
        The first so many rows are of kept classes.

    Returns
    -------
    tuple[Floats, float]
        (C,) weights, and the bias.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    inputs = np.hstack([(features - mean) / spread, np.ones((len(features), 1))])
    highest = answers.max(axis=1)
    against = highest + np.log(np.exp(answers - highest[:, None]).sum(axis=1))
    wanted = np.arange(len(features)) >= kept
    share = np.where(wanted, 0.5 / max(1, len(features) - kept), 0.5 / max(1, kept))

    def loss(row: Floats) -> tuple[float, Floats]:
        margin = inputs @ row - against
        sign = np.where(wanted, 1.0, -1.0)
        lost = np.logaddexp(0.0, -sign * margin)
        slope = -sign * share / (1 + np.exp(np.clip(sign * margin, -50, 50)))
        penalty = RIDGE * row * np.append(np.ones(len(row) - 1), 0.0)
        return float(share @ lost + 0.5 * penalty @ row), inputs.T @ slope + penalty

    found: Floats = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x
    weight = found[:-1] / spread
    ahead = highest[wanted] - features[wanted] @ weight
    return weight, float(np.quantile(ahead, 1 - PASSED))


def _read(model: Model, images: Sequence[Images], batch_size: int) -> tuple[Floats, Floats]:
    """Collect what the head reads and what it says, (N, C) and (N, k)."""
    read: list[torch.Tensor] = []
    said: list[torch.Tensor] = []

    def hook(_: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        read.append(inputs[0])
        said.append(output)

    module = model.module
    with torch.no_grad(), evaluating(module), tapped(module, [model.head], hook):
        for source in images:
            for batch, _ in source.batches(batch_size):
                module(batch.to(model.device))
    return torch.cat(read).cpu().double().numpy(), torch.cat(said).cpu().double().numpy()

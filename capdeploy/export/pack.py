"""Seal a network into a bundle: graph, weights, plan, labels, preprocessing, recipe, metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capdeploy import __version__, bundle, tensorfile
from capdeploy.check_images import CheckImages
from capdeploy.errors import CapdeployError
from capdeploy.export import graph, parity
from capdeploy.export.simplify import simplify
from capdeploy.model import Model, require_classes
from capdeploy.observe.fold import fold
from capdeploy.observe.taps import evaluating
from capdeploy.samples import Images
from capdeploy.values.artifact import Artifact, Simplification
from capdeploy.values.manifest import REJECTED, Manifest
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import Metrics

# A graph may be off by what float32 itself costs this network, counted on both sides, and a margin.
ROUNDING_MARGIN = 4.0


@dataclass(frozen=True)
class Settings:
    """How to export.

    Parameters
    ----------
    atol : float
        Largest parity error that is accepted, unless PyTorch's own rounding is larger.
    simplify_seconds : float
        Time limit of onnxsim.
    parity_images : int
        Images to prove parity on.
    """

    atol: float
    simplify_seconds: float
    parity_images: int = 50


@dataclass(frozen=True)
class Exported:
    """A graph that has passed its checks."""

    artifact: Artifact
    denormals_flushed: int


def answers(model: Model, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Run a network in PyTorch, (N, 3, H, W) to (N, k)."""
    with evaluating(model.module):
        found: npt.NDArray[np.float32] = _through(model.module, torch.from_numpy(inputs))
    return found


def _through(module: nn.Module, inputs: torch.Tensor) -> npt.NDArray[Any]:
    with torch.no_grad():
        parts = [module(part) for part in torch.split(inputs, 32)]
    joined: npt.NDArray[Any] = torch.cat(parts).numpy()
    return joined


def rounding(
    model: Model, inputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> float:
    """Measure how far PyTorch's own float32 answers are from those in float64.

    The larger distance of two counts: of the network as it is, and with its batch normalisations
    folded into the layers in front of them, as every runtime computes it. A network of a user's
    own may insist on single precision; then nothing is granted for it.
    """
    single = torch.from_numpy(inputs)
    try:
        exact = _through(model.copy_module().double().eval(), single.double())
    except RuntimeError:  # of numbers of unlike types
        return 0.0
    folded = _through(fold(model.module, model.trace, single[:2]), single)
    return max(float(np.abs(exact - found).max()) for found in (expected, folded))


def export(
    model: Model, plan: PruningPlan, images: Images, folder: Path, settings: Settings
) -> Exported:
    """Export a network into a folder as a verified, simplified graph.

    Parameters
    ----------
    model : Model
        The network.
    plan : PruningPlan
        How it was made, for the graph's facts.
    images : Images
        Real images to prove parity on; not those of the test split.
    folder : Path
        Where ``model.onnx`` goes.
    settings : Settings
        How to export.

    Returns
    -------
    Exported
        The graph's description and proofs.

    Raises
    ------
    StepFailedError
        If the exporter fails.
    """
    model = model.on("cpu")  # whose answers every runtime is compared with
    # Few images are shown again, so that every batch size is really tried.
    shown = np.resize(np.arange(len(images)), max(10, min(len(images), settings.parity_images)))
    inputs = images.preprocessing.apply(images.pixels(shown))
    expected = answers(model, inputs)
    atol = max(settings.atol, ROUNDING_MARGIN * rounding(model, inputs, expected))
    path, draft = folder / bundle.GRAPH, folder / "simplified.onnx"
    facts = facts_of(model, plan.strategy, str(plan.budget))
    flushed = graph.export(model, path, facts)
    proofs = [parity.check(path, inputs, expected, stage="exported", atol=atol)]
    result = simplify(path, draft, seconds=settings.simplify_seconds)
    if result.applied:
        try:
            graph.finish(draft, facts)
            proof = parity.check(draft, inputs, expected, stage="simplified", atol=atol)
            fault = "" if proof.holds else f"it is off by {proof.max_abs_error:.2g}"
        except CapdeployError as error:
            fault = str(error)
        if fault:
            draft.unlink()
            result = Simplification(
                applied=False,
                nodes_before=result.nodes_before,
                nodes_after=result.nodes_before,
                reason=f"the simplified graph is not usable: {fault}",
            )
        else:
            proofs.append(proof)
            draft.replace(path)
    version, nodes = graph.describe(path)
    artifact = Artifact(
        file=bundle.GRAPH,
        opset=version,
        nodes=nodes,
        size_bytes=path.stat().st_size,
        simplification=result,
        parity=tuple(proofs),
    )
    return Exported(artifact, flushed)


def facts_of(model: Model, strategy: str, budget: str) -> dict[str, str]:
    """Say what a graph's ``metadata_props`` tell of it, in words."""
    classes = require_classes(model)
    return {
        "capdeploy.version": __version__,
        "capdeploy.architecture": str(model.checkpoint.architecture),
        "capdeploy.checkpoint_sha256": model.checkpoint.sha256,
        "capdeploy.labels": json.dumps(_labels(model)),
        "capdeploy.class_ids": json.dumps(classes.kept),
        "capdeploy.head_cut": json.dumps(model.head_cut),
        "capdeploy.reject_output": json.dumps(model.reject_output),
        "capdeploy.preprocessing": model.preprocessing.model_dump_json(),
        "capdeploy.strategy": strategy,
        "capdeploy.budget": budget,
    }


def _labels(model: Model) -> tuple[str, ...]:
    """Name every output; one of a whole head that nothing is known of by its number."""
    classes = require_classes(model)
    if model.head_cut:
        return classes.names if model.reject_output is None else (*classes.names, REJECTED)
    known = dict(enumerate(model.checkpoint.labels or ()))
    known |= dict(zip(classes.kept, classes.names, strict=True))
    return tuple(known.get(output, str(output)) for output in range(classes.total))


def seal(
    model: Model,
    plan: PruningPlan,
    metrics: Metrics,
    test: Images,
    folder: Path,
    *,
    recipe: str,
    baseline: str | None,
    check_images: int,
) -> None:
    """Write everything but the graph into a bundle's folder, and the manifest last.

    Parameters
    ----------
    model : Model
        The network that was exported into the folder.
    plan : PruningPlan
        Kept original indices.
    metrics : Metrics
        Costs, accuracies, history.
    test : Images
        The test split, some of which go along as check images.
    folder : Path
        The bundle's folder, holding ``model.onnx``.
    recipe : str
        The resolved recipe, TOML.
    baseline : str | None
        Name of the baseline's folder beside this one; None for the baseline itself.
    check_images : int
        How many images go along.
    """
    tensorfile.save(model.module.state_dict(), folder / bundle.WEIGHTS)
    chosen = test.take(check_images, seed=0)
    pixels = chosen.pixels(np.arange(len(chosen)))
    logits = answers(model.on("cpu"), model.preprocessing.apply(pixels))
    targets = model.targets(torch.from_numpy(chosen.labels)).numpy()
    CheckImages(pixels, targets, logits).save(folder)
    (folder / bundle.PLAN).write_text(plan.to_json(), encoding="utf-8")
    (folder / bundle.LABELS).write_text(
        "".join(f"{name}\n" for name in _labels(model)), encoding="utf-8"
    )
    (folder / bundle.PREPROCESSING).write_text(model.preprocessing.to_json(), encoding="utf-8")
    (folder / bundle.RECIPE).write_text(recipe, encoding="utf-8")
    (folder / bundle.METRICS).write_text(metrics.to_json(), encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
    manifest = Manifest(
        tool_version=__version__,
        name=metrics.name,
        role="baseline" if baseline is None else "compressed",
        baseline=baseline,
        checkpoint=model.checkpoint,
        classes=require_classes(model),
        head_cut=model.head_cut,
        reject_output=model.reject_output,
        preprocessing=model.preprocessing,
        cost=metrics.after,
        accuracy=metrics.accuracy[-1],
        artifact=metrics.artifact,
        quantized=metrics.quantized,
        trust=metrics.trust,
        files=bundle.entries(folder),
    )
    (folder / bundle.MANIFEST).write_text(bundle.sealed(manifest).to_json(), encoding="utf-8")

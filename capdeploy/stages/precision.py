"""Graphs in fewer bits: made for each runtime, judged on the test split, kept or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from capdeploy import recipes
from capdeploy.bundle import GRAPH
from capdeploy.errors import MissingExtraError, StepFailedError
from capdeploy.export import for_openvino, quantize
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES
from capdeploy.samples import Images, Samples
from capdeploy.stages.bits import GraphRuntime, Precision, needs_reduced_range, wanted
from capdeploy.values.accuracy import Accuracy, Difference, DropRule
from capdeploy.values.artifact import Quantized
from capdeploy.values.recipe import Recipe
from capdeploy.values.trust import Logits

ATTEMPTS = (1, 2, 4, 8)
"""How many of the noisiest layers stay in single precision, one attempt after the other."""
GLANCE = 16
BATCH = 16


@dataclass(frozen=True)
class Loose:
    """A graph that is in no bundle yet, as a runtime opens it."""

    graph_path: Path


@dataclass(frozen=True)
class Bench:
    """What graphs of one network are made of and judged by.

    Parameters
    ----------
    model : Model
        The network, for its classes and preprocessing.
    folder : Path
        Where its single-precision graph lies and the others go.
    calibration : npt.NDArray[np.float32]
        (N, 3, H, W) preprocessed training images of the kept classes.
    test : Images
        The test split.
    most_points : float
        Top-1 points that fewer bits may cost.
    rule : DropRule
        How the interval of what they cost counts.
    reduce_range : bool
        Whether the device's kernels need weights of 7 bits.
    """

    model: Model
    folder: Path
    calibration: npt.NDArray[np.float32]
    test: Images
    most_points: float
    rule: DropRule
    reduce_range: bool


def in_fewer_bits(
    recipe: Recipe, model: Model, images: Samples, test: Images, folder: Path, say: Say
) -> tuple[Quantized, ...]:
    """Make the graphs in fewer bits that a recipe asks for, and judge each in its runtime.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    model : Model
        The network that was exported into the folder.
    images : Samples
        Calibration images are drawn from its training part.
    test : Images
        The test split.
    folder : Path
        Holds the graph in single precision; kept graphs go beside it.
    say : Say
        Hears of each.

    Returns
    -------
    tuple[Quantized, ...]
        One for each graph that was asked for, rejected ones too; of those no file remains.
    """
    asked = wanted(recipe)
    if not asked:
        return ()
    shown = images.train.take(recipe.calibration_images, seed=recipe.seed)
    pixels = shown.pixels(np.arange(len(shown)))
    bench = Bench(
        model, folder, model.preprocessing.apply(pixels), test, recipe.max_drop,
        recipe.drop_rule, needs_reduced_range(recipes.profile_of(recipe)),
    )  # fmt: skip
    found = []
    before: dict[str, tuple[Accuracy, npt.NDArray[np.bool_]]] = {}
    for precision, runtime in asked:
        say.step(f"{folder.name} in {precision} for {RUNTIMES.load(runtime).title}")
        if runtime not in before:
            before[runtime] = judge(bench, folder / GRAPH, runtime)
        result = make(bench, precision, runtime, *before[runtime])
        say.note(_said(result))
        found.append(result)
    return tuple(found)


def _said(result: Quantized) -> str:
    drop = result.drop
    verdict = f"rejected: {result.rejected}" if result.rejected else result.kept
    if drop is None:
        return f"{result.precision} in {result.runtime} {verdict}"
    return (
        f"{result.precision} in {result.runtime}: {drop.points:+.1f} points lost "
        f"[{drop.low:+.1f}, {drop.high:+.1f}] on {drop.images} images; {verdict}"
    )


def make(
    bench: Bench,
    precision: Precision,
    runtime: GraphRuntime,
    before: Accuracy,
    right: npt.NDArray[np.bool_],
) -> Quantized:
    """Make one graph; where it loses too much, leave the noisiest layers in single precision."""
    result = _attempt(bench, precision, runtime, before, right, ())
    if result.rejected is None or result.drop is None or precision != "int8":
        return _settled(bench, result)
    ranked = _ranking(bench)
    for count in ATTEMPTS:
        if count >= len(ranked):
            break
        again = _attempt(bench, precision, runtime, before, right, ranked[:count])
        if again.rejected is None:
            return again
        if again.drop is not None and again.drop.points < result.drop.points:
            result = again
    return _settled(bench, result)


def _settled(bench: Bench, result: Quantized) -> Quantized:
    if result.rejected is not None:
        for name in result.files:
            (bench.folder / name).unlink(missing_ok=True)
    return result


def _attempt(
    bench: Bench,
    precision: Precision,
    runtime: GraphRuntime,
    before: Accuracy,
    right: npt.NDArray[np.bool_],
    exclude: Sequence[str],
) -> Quantized:
    names: tuple[str, ...] = (f"model.{precision}.onnx",)
    if runtime == "openvino":
        names = (f"model.{precision}.xml", f"model.{precision}.bin")
    target = bench.folder / names[0]
    try:
        _make(bench, precision, runtime, target, exclude)
        after, hits = judge(bench, target, runtime)
    except MissingExtraError:
        raise
    except Exception as error:  # what a converter writes, a runtime may refuse in its own words;
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Quantized(  # the network in single precision is whole, and stays
            precision=precision, runtime=runtime, files=names, size_bytes=0, before=before,
            rejected=lines[0],
        )  # fmt: skip
    drop = Difference.between(right.tolist(), hits.tolist())
    most = bench.most_points
    over = (
        f"{drop.points:.1f} points lost [{drop.low:+.1f}, {drop.high:+.1f}], --max-drop allows "
        f"{most:g} (drop_rule {bench.rule})"
    )
    return Quantized(
        precision=precision, runtime=runtime, files=names,
        size_bytes=sum((bench.folder / name).stat().st_size for name in names),
        calibration_images=len(bench.calibration) if precision == "int8" else 0,
        in_fp32=tuple(exclude), before=before, after=after, drop=drop, max_drop=most,
        rejected=over if drop.exceeds(most, bench.rule) else None,
    )  # fmt: skip


def _make(
    bench: Bench, precision: Precision, runtime: GraphRuntime, target: Path, exclude: Sequence[str]
) -> None:
    source = bench.folder / GRAPH
    if runtime == "onnxruntime" and precision == "fp16":
        quantize.onnx_fp16(source, target)
    elif runtime == "onnxruntime":
        quantize.onnx_int8(
            source, target, bench.calibration, exclude=exclude, reduce_range=bench.reduce_range
        )
    elif precision == "int8":
        for_openvino.int8(source, target, bench.calibration, exclude=exclude)
    else:
        for_openvino.fp16(source, target)


def _ranking(bench: Bench) -> list[str]:
    """Order the layers by the noise that 8 bits add to each, by running both graphs."""
    draft = bench.folder / "ranking.onnx"
    source = bench.folder / GRAPH
    try:
        quantize.onnx_int8(
            source, draft, bench.calibration, reduce_range=bench.reduce_range, brief=False
        )
        return quantize.noisiest(source, draft, bench.calibration[:GLANCE])
    except StepFailedError:  # what ONNX Runtime cannot take, OpenVINO perhaps could: unranked
        return []
    finally:
        draft.unlink(missing_ok=True)


def judge(bench: Bench, graph: Path, runtime: str) -> tuple[Accuracy, npt.NDArray[np.bool_]]:
    """Run a graph on the test split: accuracy, and whether each image's answer is right."""
    model, test = bench.model, bench.test
    right = answers(model, graph, runtime, test).argmax(axis=1) == _targets(model, test)
    return Accuracy.counted(runtime, require_classes(model).names, test.labels, right), right


def answers(model: Model, graph: Path, runtime: str, images: Images) -> Logits:
    """Run a graph that is in no bundle yet: logits, (N, outputs)."""
    session: Any = RUNTIMES.load(runtime).open(cast(Any, Loose(graph)), "cpu", 1)
    with closing(session):
        parts = [
            session.run(model.preprocessing.apply(images.pixels(
                np.arange(start, min(start + BATCH, len(images)))
            )))
            for start in range(0, len(images), BATCH)
        ]  # fmt: skip
    return np.concatenate(parts)


def _targets(model: Model, images: Images) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = model.targets(torch.from_numpy(images.labels)).numpy()
    return found

"""Graphs in fewer bits: made for each runtime, judged on the test split, kept or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from capdeploy import recipes
from capdeploy.bundle import GRAPH
from capdeploy.errors import ConfigError, MissingError, MissingExtraError, StepFailedError
from capdeploy.export import for_openvino, quantize
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES
from capdeploy.samples import Images, Samples
from capdeploy.values.accuracy import Accuracy, Difference
from capdeploy.values.artifact import Quantized
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.recipe import Recipe

Precision = Literal["fp16", "int8"]
GraphRuntime = Literal["onnxruntime", "openvino"]
ATTEMPTS = (1, 2, 4, 8)
"""How many of the noisiest layers stay in single precision, one attempt after the other."""
GPUS = frozenset({"cuda", "tensorrt"})
"""Devices on which ONNX Runtime computes in half precision; its CPU kernels cast every layer."""
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
    reduce_range : bool
        Whether the device's kernels need weights of 7 bits.
    """

    model: Model
    folder: Path
    calibration: npt.NDArray[np.float32]
    test: Images
    most_points: float
    reduce_range: bool


def wanted(recipe: Recipe) -> list[tuple[Precision, GraphRuntime]]:
    """List the graphs that a recipe asks for besides the one in single precision.

    Parameters
    ----------
    recipe : Recipe
        Names precisions, and runtimes by its profile.

    Returns
    -------
    list[tuple[Precision, GraphRuntime]]
        8 bits for every runtime of graphs, 16 for OpenVINO, and for ONNX Runtime if the profile
        has a GPU that it runs on.

    Raises
    ------
    ConfigError
        If a precision is asked for that no runtime here takes.
    MissingError
        If a package for one of them is not installed; better now than after the training.
    """
    target = recipes.profile_of(recipe).runtime
    runtimes = target.runtimes
    found: list[tuple[Precision, GraphRuntime]] = []
    if "int8" in recipe.precision and "onnxruntime" in runtimes:
        found.append(("int8", "onnxruntime"))
    if "fp16" in recipe.precision and "onnxruntime" in runtimes and GPUS & set(target.devices):
        found.append(("fp16", "onnxruntime"))
    if "openvino" in runtimes:
        found += [(each, "openvino") for each in ("fp16", "int8") if each in recipe.precision]
    for asked in recipe.precision:
        if asked != "fp32" and asked not in {precision for precision, _ in found}:
            both = "onnxruntime and openvino"
            takers = "openvino, and onnxruntime on cuda" if asked == "fp16" else both
            raise ConfigError(
                f"--precision {asked} is for {takers}, and the runtimes here are "
                f"{', '.join(runtimes)} on {', '.join(target.devices)}; add one with --runtimes "
                f"or --devices, or give --precision fp32"
            )
    for precision, runtime in found:
        packages = [runtime, *(["nncf"] if (precision, runtime) == ("int8", "openvino") else [])]
        for package in packages:
            if find_spec(package) is None:
                raise MissingError(
                    f"{package} is not installed, and {precision} for {runtime} needs it: pip "
                    f"install 'capdeploy[{packages[-1]}]', or leave {runtime} out of --runtimes"
                )
    return found


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
        _needs_reduced_range(recipes.profile_of(recipe)),
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


def _needs_reduced_range(profile: HardwareProfile) -> bool:
    """Tell whether the device sums pairs of 8-bit products in 16 bits: x86 without VNNI."""
    device = profile.device
    return device.arch in ("x86_64", "any") and not any("vnni" in isa for isa in device.isa)


def _said(result: Quantized) -> str:
    drop = result.drop
    whole = f", {len(result.in_fp32)} layers in fp32" if result.in_fp32 else ""
    verdict = f"rejected: {result.rejected}" if result.rejected else f"kept{whole}"
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
    over = f"{drop.points:.1f} points lost, --max-drop allows {bench.most_points:g}"
    return Quantized(
        precision=precision, runtime=runtime, files=names,
        size_bytes=sum((bench.folder / name).stat().st_size for name in names),
        calibration_images=len(bench.calibration) if precision == "int8" else 0,
        in_fp32=tuple(exclude), before=before, after=after, drop=drop,
        rejected=over if drop.points > bench.most_points else None,
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
    session: Any = RUNTIMES.load(runtime).open(cast(Any, Loose(graph)), "cpu", 1)
    test, parts = bench.test, []
    targets = _targets(bench.model, test)
    for start in range(0, len(test), BATCH):
        chosen = np.arange(start, min(start + BATCH, len(test)))
        logits = session.run(bench.model.preprocessing.apply(test.pixels(chosen)))
        parts.append(logits.argmax(axis=1) == targets[chosen])
    session.close()
    right = np.concatenate(parts)
    names = require_classes(bench.model).names
    return Accuracy.counted(runtime, names, test.labels, right), right


def _targets(model: Model, images: Images) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = model.targets(torch.from_numpy(images.labels)).numpy()
    return found

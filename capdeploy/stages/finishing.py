"""What comes after the networks are made: judging the start, measuring, writing the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from capdeploy import bundle, recipes
from capdeploy.bench import matrix
from capdeploy.bench.stats import percentile
from capdeploy.errors import CapdeployError, DataError, StepFailedError
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.samples import Images, Samples
from capdeploy.stages import precision
from capdeploy.stages.making import Before
from capdeploy.train import evaluate
from capdeploy.train import trust as trusting
from capdeploy.values.artifact import Quantized
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import BenchmarkReport, Measured
from capdeploy.values.trust import Trust


def before(full: Model, narrow: Model, test: Images, batch_size: int) -> Before:
    """Judge the network before any filter went: full head, masked, and head cut."""
    masked = evaluate.accuracy(
        full, test, stage="full head, masked", batch_size=batch_size, masked=True
    )
    first = evaluate.tally(full, test, stage="full head", batch_size=batch_size)
    if not narrow.head_cut:
        return Before((masked, first.accuracy), first.right)  # the last stage is what is shipped
    last = evaluate.tally(narrow, test, stage="head cut", batch_size=batch_size)
    return Before((first.accuracy, masked, last.accuracy), last.right)


def trust(
    model: Model, bits: Sequence[Quantized], images: Samples, test: Images, folder: Path,
    recipe: Recipe, say: Say,
) -> tuple[Trust | None, tuple[Quantized, ...]]:  # fmt: skip
    """Calibrate a finished network and teach it to refuse, each of its precisions by itself.

    Parameters
    ----------
    model : Model
        The network; a whole head is left as it is.
    bits : Sequence[Quantized]
        Its graphs in fewer bits.
    images : Samples
        Temperature and threshold are fitted on held-out ones and on ones of dropped classes.
    test : Images
        The test split, which judges them.
    folder : Path
        Holds the graphs.
    recipe : Recipe
        Batch size and seed.
    say : Say
        Hears if there are no images of other classes.

    Returns
    -------
    tuple[Trust | None, tuple[Quantized, ...]]
        Of the network in single precision, and the graphs with their own.
    """
    if not model.head_cut:
        return None, tuple(bits)
    known = unknown = None
    try:
        known = images.dropped(len(images.validation), seed=recipe.seed)
        unknown = images.dropped(len(test), seed=recipe.seed, test=True)
    except DataError as error:  # of classes that nobody asked for: no reason to lose the run
        say.note(f"no threshold for images of other classes: {error}")

    def fitted(answers: trusting.Answers) -> Trust:
        shown = (images.validation, known, test, unknown)
        return trusting.fit(answers, *shown, reject=model.reject_output)

    def with_trust(each: Quantized) -> Quantized:
        if each.rejected is not None:
            return each
        answers = partial(precision.answers, model, folder / each.files[0], each.runtime)
        try:
            return each.model_copy(update={"trust": fitted(answers)})
        except StepFailedError as error:  # half precision overflows on what nobody judged it by
            say.note(
                f"{each.precision} in {each.runtime}: {error}; the threshold of single precision "
                "counts"
            )
            return each

    return fitted(trusting.of_model(model, recipe.batch_size)), tuple(map(with_trust, bits))


def bench(recipe: Recipe, output: Path, say: Say) -> BenchmarkReport:
    """Measure a finished run; the bundles are whole and stay, whatever happens here."""
    try:
        report = matrix.run(
            bundle.find(output),
            recipes.profile_of(recipe),
            seconds=recipe.bench_seconds,
            say=say,
            trust_factory=True,
        )
        say.measured(_latencies(report))
        return report
    except CapdeployError:
        say.note(f"{output} is complete, but could not be measured")
        raise


def _latencies(report: BenchmarkReport) -> dict[str, float]:
    """Pick what is worth comparing between runs on one machine."""
    values = {}
    for row in report.rows:
        at, result = row.settings, row.result
        if isinstance(result, Measured):
            place = f"{at.bundle}/{at.runtime}_{at.device}_{at.precision}"
            values[f"{place}_p50_ms"] = percentile(result.latency_ms, 50)
            values[f"{place}_p90_ms"] = percentile(result.latency_ms, 90)
    return values

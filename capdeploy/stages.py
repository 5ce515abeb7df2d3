"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from capdeploy import bundle, recipes
from capdeploy.bench import matrix
from capdeploy.bundle import BASELINE
from capdeploy.data import Dataset
from capdeploy.errors import CapdeployError
from capdeploy.export import pack
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.samples import Images, Samples
from capdeploy.train import batchnorm, evaluate, finetune, imitate
from capdeploy.train.course import Course
from capdeploy.train.reconstruct import reconstruct
from capdeploy.values.accuracy import Accuracy
from capdeploy.values.checkpoint import Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.plan import Budget, PruningPlan
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import BenchmarkReport, Metrics, Training

IMAGENET = Preprocessing(
    height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def preprocessing(recipe: Recipe, dataset: Dataset) -> Preprocessing:
    """Lay the user's words over the data set's own preprocessing, or over ImageNet's."""
    base = dataset.preprocessing or IMAGENET
    given: dict[str, object] = {
        "mean": recipe.mean,
        "std": recipe.std,
        "channel_order": recipe.channel_order,
    }
    if recipe.input_size is not None:
        given |= dict(zip(("height", "width"), recipe.input_size, strict=True))
    wanted = {key: value for key, value in given.items() if value is not None}
    return Preprocessing.from_plain(base.model_dump() | wanted, source="preprocessing")


def with_classes(
    model: Model, classes: ClassSubset, labels: tuple[str, ...] | None = None
) -> Model:
    """Note the chosen classes, and all labels if they are known, on a model with a whole head."""
    checkpoint = model.checkpoint.model_copy(update={"labels": labels})
    return replace(model, checkpoint=checkpoint, classes=classes)


def budget(recipe: Recipe, ratio: float) -> Budget:
    """Read one ratio's budget from the recipe."""
    return Budget(
        ratio=ratio,
        align=recipe.align,
        skip_first=recipe.skip_first,
        protect=recipe.protect,
        residual=recipe.residual,
    )


@dataclass(frozen=True)
class Made:
    """One compressed network on its way to a bundle, with every state that will be judged."""

    name: str
    plan: PruningPlan
    cut: Model
    recalibrated: Model | None = None
    reconstructed: Model | None = None
    tuned: Model | None = None
    training: Training | None = None
    exported: pack.Exported | None = None

    @property
    def baseline(self) -> str | None:
        """Folder of the bundle to compare with; None for the baseline itself."""
        return None if self.name == BASELINE else BASELINE

    @property
    def final(self) -> Model:
        """The state that is shipped."""
        return self.tuned or self.reconstructed or self.recalibrated or self.cut

    def metrics(self, before: tuple[Accuracy, ...], test: Images, batch_size: int) -> Metrics:
        """Judge every state on the test split and put the record together."""
        if self.exported is None:
            raise ValueError(f"{self.name} is not exported yet")
        states = {
            "cut, no training": self.cut if self.plan.budget.ratio > 0 else None,
            "BN re-estimated": self.recalibrated,
            "reconstructed": self.reconstructed,
            "fine-tuned": self.tuned,
        }
        after = tuple(
            evaluate.accuracy(state, test, stage=stage, batch_size=batch_size)
            for stage, state in states.items()
            if state is not None
        )
        return Metrics(
            name=self.name,
            requested_ratio=self.plan.budget.ratio,
            realised_ratio=self.plan.realised_ratio,
            full=self.plan.full,
            before=self.plan.before,
            after=self.plan.after,
            accuracy=before + after,
            training=self.training,
            denormals_flushed=self.exported.denormals_flushed,
            artifact=self.exported.artifact,
        )


def before(full: Model, narrow: Model, test: Images, batch_size: int) -> tuple[Accuracy, ...]:
    """Judge the network before any filter went: full head, masked, and head cut."""
    first = evaluate.accuracy(full, test, stage="full head", batch_size=batch_size)
    masked = evaluate.accuracy(
        full, test, stage="full head, masked", batch_size=batch_size, masked=True
    )
    if not narrow.head_cut:
        return (masked, first)  # the last stage is what is shipped
    return (first, masked, evaluate.accuracy(narrow, test, stage="head cut", batch_size=batch_size))


def make(
    recipe: Recipe,
    full: Model,
    teacher: Model,
    images: Samples,
    drawn: PruningPlan,
    work: Path,
    say: Say,
) -> Made:
    """Cut, recover and export one network into a folder of its own."""
    ratio = drawn.budget.ratio
    for left in drawn.left_whole():
        say.note(f"{left.group} and its group stay whole: {left.whole_because}")
    made = Made(BASELINE if ratio == 0 else f"ratio-{ratio:g}", drawn, apply.cut(full, drawn))
    if ratio > 0:
        made = recover(made, teacher, images, recipe, say)
    say.step(f"export {made.name}")
    made = export(made, images.validation, work / made.name, recipe)
    simplified = made.exported.artifact.simplification if made.exported else None
    if simplified is not None and not simplified.applied:
        say.note(f"the graph is not simplified: {simplified.reason}")
    return made


def recover(made: Made, teacher: Model, images: Samples, recipe: Recipe, say: Say) -> Made:
    """Win accuracy back after the cut: batch-normalisation statistics first, then training."""
    model = made.cut
    shown = images.train.take(recipe.bn_images, seed=recipe.seed)
    if recipe.bn_images and model.trace.norms:
        say.step(f"re-estimate BN statistics of {made.name}")
        model = batchnorm.reestimate(model, shown, batch_size=recipe.batch_size)
        made = replace(made, recalibrated=model)
    if recipe.reconstruct if recipe.reconstruct is not None else not recipe.epochs:
        say.step(f"reconstruct {made.name}")
        few = images.train.take(recipe.reconstruct_images, seed=recipe.seed)
        model = reconstruct(teacher, made.cut, made.plan, few, batch_size=recipe.batch_size)
        made = replace(made, reconstructed=model)
    if recipe.epochs:
        say.step(f"fine-tune {made.name}")
        course = _course(made.plan, teacher, images, recipe)
        tuned, training = finetune.run(model, course, _training(recipe), say)
        made = replace(made, tuned=tuned, training=training)
    return made


def _course(plan: PruningPlan, teacher: Model, images: Samples, recipe: Recipe) -> Course:
    if not recipe.distill:
        return Course(images.train, images.validation)
    count = round(recipe.dropped_images * len(images.train))
    return Course(
        images.train,
        images.validation,
        images.dropped(count, seed=recipe.seed),
        imitate.Teacher(teacher, recipe.temperature, imitate.kept_channels(teacher, plan)),
    )


def _training(recipe: Recipe) -> finetune.Settings:
    return finetune.Settings(
        epochs=recipe.epochs,
        learning_rate=recipe.lr,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        warmup=recipe.warmup,
        patience=recipe.patience,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )


def export(made: Made, images: Images, folder: Path, recipe: Recipe) -> Made:
    """Export the final state into a new folder."""
    folder.mkdir()
    settings = pack.Settings(atol=recipe.parity_atol, simplify_seconds=recipe.simplify_seconds)
    return replace(made, exported=pack.export(made.final, made.plan, images, folder, settings))


def bench(recipe: Recipe, output: Path, say: Say) -> BenchmarkReport:
    """Measure a finished run; the bundles are whole and stay, whatever happens here."""
    try:
        return matrix.run(
            bundle.find(output),
            recipes.profile_of(recipe),
            seconds=recipe.bench_seconds,
            say=say,
            trust_factory=True,
        )
    except CapdeployError:
        say.note(f"{output} is complete, but could not be measured")
        raise


def rewrite(path: Path, text: str) -> None:
    """Replace a file's text in one move, so that a reader never sees half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as draft:
        draft.write(text)
    Path(draft.name).chmod(0o644)
    os.replace(draft.name, path)

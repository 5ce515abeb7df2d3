"""One compressed network on its way to a bundle, with every state that will be judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdeploy.bundle import BASELINE
from capdeploy.errors import DataError
from capdeploy.export import pack
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.samples import Images, Samples
from capdeploy.train import batchnorm, evaluate, finetune, imitate, reject
from capdeploy.train.course import Course
from capdeploy.train.reconstruct import reconstruct
from capdeploy.values.accuracy import Accuracy, Difference
from capdeploy.values.artifact import Quantized
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Common, Recipe
from capdeploy.values.report import Metrics
from capdeploy.values.training import Training


@dataclass(frozen=True)
class Before:
    """The network before any filter went, on the test split.

    Parameters
    ----------
    stages : tuple[Accuracy, ...]
        Full head, masked, head cut.
    right : npt.NDArray[np.bool_]
        (N,) whether the last of them is right, by image.
    """

    stages: tuple[Accuracy, ...]
    right: npt.NDArray[np.bool_]


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
    earlier: tuple[Training, ...] = ()
    exported: pack.Exported | None = None
    rejecting: Model | None = None
    cut_stage: str = "cut, no training"

    @property
    def baseline(self) -> str | None:
        """Folder of the bundle to compare with; None for the baseline itself."""
        return None if self.name == BASELINE else BASELINE

    @property
    def final(self) -> Model:
        """The state that is shipped."""
        return self.rejecting or self.tuned or self.reconstructed or self.recalibrated or self.cut

    @property
    def shipped(self) -> PruningPlan:
        """What separates the original network from the state that is shipped."""
        last = self.rejecting
        if last is None:
            return self.plan
        return reject.extended(self.plan, last.head, require_classes(last), last.geometry.cost())

    def metrics(
        self,
        before: Before,
        test: Images,
        recipe: Recipe,
        quantized: tuple[Quantized, ...],
    ) -> Metrics:
        """Judge every state on the test split and put the record together."""
        if self.exported is None:
            raise ValueError(f"{self.name} is not exported yet")
        states = {
            self.cut_stage: self.cut if self.plan.budget.cuts else None,
            "BN re-estimated": self.recalibrated,
            "reconstructed": self.reconstructed,
            "fine-tuned": self.tuned,
            "reject output added": self.rejecting,
        }
        after: list[Accuracy] = []
        for stage, state in states.items():
            if state is not None and state is not self.final:
                after.append(
                    evaluate.accuracy(state, test, stage=stage, batch_size=recipe.batch_size)
                )
        # Of the baseline nothing follows the head's own stages.
        stage = next((name for name, state in states.items() if state is self.final), "")
        last = evaluate.tally(self.final, test, stage=stage, batch_size=recipe.batch_size)
        after += [last.accuracy] if stage else []
        return Metrics(
            name=self.name,
            requested=str(self.plan.budget),
            realised_ratio=self.plan.realised_ratio,
            full=self.plan.full,
            before=self.plan.before,
            after=self.shipped.after,
            accuracy=(*before.stages, *after),
            lost=Difference.between(before.right.tolist(), last.right.tolist()),
            max_accuracy_drop=recipe.max_accuracy_drop if self.baseline is not None else None,
            confusion=last.confusion,
            training=self.training,
            earlier=self.earlier,
            search=self.plan.search,
            denormals_flushed=self.exported.denormals_flushed,
            artifact=self.exported.artifact,
            quantized=quantized,
        )


def with_reject_output(made: Made, images: Samples, recipe: Recipe, say: Say) -> Made:
    """Add an output for images of none of the kept classes."""
    say.step(f"fit the reject output of {made.name}")
    # Who wants none of them for training (0) still asks for an output that knows them.
    count = max(1, round((recipe.dropped_images or 1.0) * len(images.train)))
    others = images.dropped(count, seed=recipe.seed)
    if others is None:
        raise DataError("the data has no readable images of dropped classes for --reject-class")
    model = reject.add(made.final, images.train, others, batch_size=recipe.batch_size)
    return replace(made, rejecting=model)


def tell(drawn: PruningPlan, say: Say) -> None:
    """Say what a plan removes whole, and what it leaves whole."""
    if drawn.removed:
        say.note(f"removed whole: {', '.join(map(str, drawn.removed))}")
    for left in drawn.left_whole():
        say.note(f"{left.group} and its group stay whole: {left.whole_because}")
    asked = drawn.budget.ratio
    if asked and abs(drawn.realised_ratio - asked) > drawn.budget.tolerance:
        say.note(
            f"{drawn.realised_ratio:.1%} of the filters go instead of {asked:.1%}: widths are "
            f"multiples of {drawn.budget.align} (--align), and groups that stay whole give nothing"
        )


def recover(
    made: Made, teacher: Model, images: Samples, recipe: Recipe, epochs: int, say: Say
) -> Made:
    """Win accuracy back after the cut: batch-normalisation statistics first, then training."""
    model = made.cut
    shown = images.train.take(recipe.bn_images, seed=recipe.seed)
    if recipe.bn_images and model.trace.norms:
        say.step(f"re-estimate BN statistics of {made.name}")
        model = batchnorm.reestimate(model, shown, batch_size=recipe.batch_size)
        made = replace(made, recalibrated=model)
    if recipe.reconstruct if recipe.reconstruct is not None else not epochs:
        made = replace(made, reconstructed=_solved(made, teacher, images, recipe, say))
    if epochs:
        course = _course(made.plan, teacher, images, recipe)
        made = _tuned(made, course, settings_of(recipe, epochs), say)
        if recipe.reconstruct is None and recipe.steps == 1:
            solved = _solved(made, teacher, images, recipe, say)
            made = _from_the_better_start(made, solved, course, settings_of(recipe, epochs), say)
    return made


def _solved(made: Made, teacher: Model, images: Samples, recipe: Recipe, say: Say) -> Model:
    say.step(f"reconstruct {made.name}")
    few = images.train.take(recipe.reconstruct_images, seed=recipe.seed)
    others = images.dropped(len(few), seed=recipe.seed)
    pool = [few] if others is None else [few, others]
    return reconstruct(teacher, made.cut, made.plan, pool, batch_size=recipe.batch_size, say=say)


def _tuned(made: Made, course: Course, settings: finetune.Settings, say: Say) -> Made:
    say.step(f"fine-tune {made.name}")
    tuned, training = finetune.run(made.final, course, settings, say)
    if training.rolled_back:
        say.note(training.rollback)
    return replace(made, tuned=tuned, training=training)


def _from_the_better_start(
    made: Made, solved: Model, course: Course, settings: finetune.Settings, say: Say
) -> Made:
    """Train again, from the reconstruction, where training did worse than it does without any.

    Few images, depthwise convolutions: a network that was cut deep may not find back in a few
    epochs from statistics alone. Then it is trained with those that the regression fitted it to.
    """
    size = settings.batch_size
    before, after = (
        evaluate.accuracy(each, course.validation, stage="", batch_size=size)
        for each in (solved, made.final)
    )
    if made.training is None or before.correct <= after.correct:
        return made
    say.note(
        f"trained, {made.name} has {after.correct} of {after.images} validation images right, "
        f"reconstructed without any training {before.correct}: it is trained again from there"
    )
    start = replace(
        made, reconstructed=solved, tuned=None, earlier=(*made.earlier, made.training)
    )  # fmt: skip
    return _tuned(start, course, replace(settings, freeze_bn=True), say)


def _course(plan: PruningPlan, teacher: Model, images: Samples, recipe: Recipe) -> Course:
    if not recipe.distill:
        return Course(
            images.train, images.validation, balance=recipe.balance, augment=recipe.augment
        )
    count = round(recipe.dropped_images * len(images.train))
    return Course(
        images.train,
        images.validation,
        images.dropped(count, seed=recipe.seed),
        imitate.Teacher(teacher, recipe.temperature, imitate.kept_channels(teacher, plan)),
        recipe.balance,
        recipe.augment,
    )


def settings_of(recipe: Common, epochs: int) -> finetune.Settings:
    """Read how to train from the recipe."""
    return finetune.Settings(
        epochs=epochs,
        learning_rate=recipe.lr,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        warmup=recipe.warmup,
        patience=recipe.patience,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        freeze_bn=recipe.freeze_bn,
    )


def export(made: Made, images: Images, folder: Path, recipe: Recipe) -> Made:
    """Export the final state into a new folder."""
    folder.mkdir()
    settings = pack.Settings(atol=recipe.parity_atol, simplify_seconds=recipe.simplify_seconds)
    return replace(made, exported=pack.export(made.final, made.shipped, images, folder, settings))

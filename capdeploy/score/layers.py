"""Scores of single layers, from running reductions of a per-image statistic."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from capdeploy.errors import ArchitectureError, PlanError
from capdeploy.observe import ablation, signals
from capdeploy.observe.relevance import Explainer
from capdeploy.observe.rules import Rules
from capdeploy.observe.taps import evaluating
from capdeploy.progress import Say
from capdeploy.samples import Images
from capdeploy.score.judged import Judged
from capdeploy.strategies import Seen, Strategy, Summary, Value, Watch

SEEN_THROUGH = 16
"""Images whose relevance is followed to the pixels, to tell how much of it came there."""
AT_ONCE = 256
"""Images of a pass with filters removed; more, at 224 pixels, would take gigabytes."""


class _Shown(NamedTuple):
    """The present batch: its images' classes, (N,), and how many there are of each, (K,)."""

    labels: torch.Tensor
    counts: torch.Tensor


@dataclass
class _Running:
    """Sums by class and maximum of one layer's statistic; size independent of the images."""

    classes: int
    counts: torch.Tensor = field(init=False)
    sums: torch.Tensor | None = None
    maximum: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.counts = torch.zeros(self.classes, dtype=torch.float64)

    def add(self, statistic: torch.Tensor, shown: _Shown) -> None:
        values = statistic.detach().cpu().double()
        if self.sums is None:
            self.sums = torch.zeros(self.classes, *values.shape[1:], dtype=torch.float64)
        self.sums.index_add_(0, shown.labels, values)  # in place: by position it may be gigabytes
        self.counts += shown.counts
        largest = values.amax(dim=0)
        self.maximum = largest if self.maximum is None else torch.maximum(self.maximum, largest)

    def summary(self, options: Mapping[str, Value]) -> Summary:
        if self.sums is None or self.maximum is None:
            raise ValueError("no statistic was added")
        shape = (-1, *[1] * (self.sums.ndim - 1))
        return Summary(
            mean=self.sums.sum(dim=0) / self.counts.sum(),
            maximum=self.maximum,
            by_class=self.sums / self.counts.clamp(min=1).view(shape),
            images=int(self.counts.sum()),
            options=options,
        )


def score(
    strategy: Strategy, judged: Judged, options: Mapping[str, Value], say: Say
) -> tuple[dict[str, torch.Tensor], int]:
    """Score layer by layer.

    Parameters
    ----------
    strategy : Strategy
        One with `per_image` and `per_filter`.
    judged : Judged
        What is scored.
    options : Mapping[str, Value]
        Every option of the strategy.
    say : Say
        Hears what it costs, and what could not be done as asked.

    Returns
    -------
    tuple[dict[str, torch.Tensor], int]
        (C,) scores by layer, and how many images were used.
    """
    scorer = _Scorer(strategy, judged, options)
    if strategy.watch is Watch.ABLATION:
        few = judged.images.take(int(float(options["images"])), seed=judged.seed)
        _ablate(scorer, few, int(float(options["permutations"])), say)
        used = len(few)
    else:
        used = _watch(scorer, say)
    found = scorer.scores()
    # A gate carries no relevance and a dead layer no response; no score is better than a tie.
    return {name: score for name, score in found.items() if used == 0 or bool(score.any())}, used


class _Scorer:
    """Hears what a strategy watches, and keeps the running reductions."""

    def __init__(self, strategy: Strategy, judged: Judged, options: Mapping[str, Value]) -> None:
        if strategy.per_image is None or strategy.per_filter is None:
            raise TypeError("a strategy that watches layers needs per_image and per_filter")
        self.watch, self.judged, self.options = strategy.watch, judged, options
        self._per_image, self._per_filter = strategy.per_image, strategy.per_filter
        # By layer, and by the statistic's shape: a layer may run at several resolutions.
        self._running: dict[str, dict[torch.Size, _Running]] = {}
        self._generators: dict[str, torch.Generator] = {}
        model = judged.model
        self._classes = model.trace.outputs if model.classes is None else len(model.classes)
        self._show(torch.zeros(1, dtype=torch.int64))  # weights are told as one image's
        # A whole head has a thousand outputs, of which a few have images.
        self._class_of = torch.zeros(model.trace.outputs, dtype=torch.int64)
        self._class_of[model.targets(torch.arange(self._classes))] = torch.arange(self._classes)

    def batches(self, size: int | None = None, images: Images | None = None) -> signals.Batches:
        """Yield images and targets; what is told until the next batch belongs to this one."""
        for batch, targets in self.judged.batches(images, size):
            self._show(self._class_of[targets.cpu()])
            yield batch, targets

    def _show(self, labels: torch.Tensor) -> None:
        self._shown = _Shown(labels, torch.bincount(labels, minlength=self._classes))

    def tell(self, layer: str, values: torch.Tensor) -> None:
        """Add what was seen of one layer for the present batch."""
        if layer not in self._generators:
            self._generators[layer] = self.judged.generator(layer)
            self._running[layer] = {}
        # Ranks, counts and maxima would take NaN for a number; a sum does not. (Of weights, the
        # scores themselves tell.)
        seen_images = self.watch not in {Watch.WEIGHTS, Watch.NORM_SCALES}
        if seen_images and not bool(values.sum().isfinite()):
            raise PlanError(f"layer {layer}: what it answers, or its gradient, is not finite")
        seen = Seen(values=values, generator=self._generators[layer], options=self.options)
        statistic = self._per_image(seen)
        running = self._running[layer].setdefault(statistic.shape[1:], _Running(self._classes))
        running.add(statistic, self._shown)

    def scores(self) -> dict[str, torch.Tensor]:
        """Turn what was heard into scores."""
        found = {}
        for name, entries in self._running.items():
            scores = [self._per_filter(each.summary(self.options)) for each in entries.values()]
            found[name] = torch.stack(scores).mean(dim=0)
        return found


def _watch(scorer: _Scorer, say: Say) -> int:
    judged, tell = scorer.judged, scorer.tell
    module, seen = judged.model.module, judged.model.trace
    if scorer.watch is Watch.WEIGHTS:
        signals.weights(module, seen, tell)
        return 0
    if scorer.watch is Watch.NORM_SCALES:
        signals.norm_scales(module, seen, tell)
        return 0
    if scorer.watch is Watch.ACTIVATIONS:
        signals.activations(module, seen, scorer.batches(), tell)
    elif scorer.watch is Watch.RELEVANCE:
        _relevance(scorer, say)
    else:
        product = scorer.watch is Watch.ACTIVATION_GRADIENTS
        signals.gradients(module, seen, scorer.batches(), tell, times_response=product)
    return len(judged.images)


def _relevance(scorer: _Scorer, say: Say) -> None:
    module, seen = scorer.judged.model.module, scorer.judged.model.trace
    options, scale = scorer.options, scorer.judged.model.preprocessing
    black, white = (
        tuple((end - mean) / std for mean, std in zip(scale.mean, scale.std, strict=True))
        for end in (0.0, 1.0)
    )
    rules = Rules(
        convolution=str(options["rule"]), gamma=float(options["gamma"]),
        addition=str(options["addition"]), bounds=(black, white),
    )  # fmt: skip
    try:
        explainer = Explainer(module, seen, rules, scorer.judged.model.example(2))
    except ArchitectureError as error:
        say.note(f"lrp: {error}; gradient times response of the class's logit is taken instead")
        signals.gradients(
            module, seen, scorer.batches(), scorer.tell, times_response=True, of_answer=True
        )
        return
    for place, (images, targets) in enumerate(scorer.batches()):
        found = explainer.explain(images, targets, to_input=0 if place else SEEN_THROUGH)
        if found.inputs is not None:
            arrived, count = 1 - found.absorbed, len(found.inputs)
            say.note(
                f"lrp: {arrived:.1%} of the relevance of {count} images came to the pixels; biases "
                "keep their share, and responses that nothing contributed to"
            )
        for name, relevance in found.layers.items():
            if name != seen.head:
                scorer.tell(name, signals.as_maps(module.get_submodule(name), relevance))


def _ablate(scorer: _Scorer, few: Images, permutations: int, say: Say) -> None:
    module, seen = scorer.judged.model.module, scorer.judged.model.trace
    orders = {}
    for name in signals.watched_layers(seen).values():
        generator = scorer.judged.generator(name)
        orders[name] = [
            torch.randperm(seen.widths[name], generator=generator) for _ in range(permutations)
        ]
    for place, (images, labels) in enumerate(scorer.batches(AT_ONCE, few)):
        if not place:
            began = time.monotonic()
            with torch.no_grad(), evaluating(module):
                module(images)
            count = ablation.passes(seen, permutations) * math.ceil(len(few) / AT_ONCE)
            minutes = count * (time.monotonic() - began) / 60
            say.note(f"{count} forward passes of {len(images)} images, about {minutes:.1f} minutes")
        ablation.ablations(module, seen, images, labels, scorer.tell, orders=orders, say=say)

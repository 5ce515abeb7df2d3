"""The table of strategies: accuracy after the cut, by strategy, budget and recovery.

python -m benchmarks.strategies gtsrb --data DATA --strategies ocap,l2 --budgets 0.5,0.75 \
    --recoveries none,reconstruct,train --epochs 1 --seeds 0,1,2

Budgets are ratios, or limits such as 50% (of the MACs). Seeds draw the scoring images, the training
order and random scores. ``tp-magnitude`` and ``tp-taylor`` are Torch-Pruning's own pruners
(GroupMagnitude and GroupTaylor importance) with the same images, epochs and seed; their networks
are built by them, not by a plan, and recovered by the same steps (batch-norm statistics, training
with distilled answers; channels cannot be matched, so they are trained without that part, and they
cannot be reconstructed). They leave a layer whole if rounding would leave it nothing: at large
ratios, `--set align=1`. With --divergence a cell also has the mean Kullback-Leibler divergence of
the test images' answers from the head-cut network's.

Recoveries: ``none`` (batch-norm statistics), ``reconstruct`` (and the layers behind re-solved),
``train`` (from the statistics), ``both`` (trained from the reconstruction; Torch-Pruning's from the
statistics, the same number of epochs).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch_pruning as tp
from torch.nn import functional as F

from benchmarks.contrast_forms import FORMS
from capdeploy import gpu, heap, pipeline, recipes, score
from capdeploy.model import Model
from capdeploy.progress import Quiet
from capdeploy.prune import apply, groups
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.stages import making, scoring, steps
from capdeploy.train import batchnorm, evaluate, finetune, head
from capdeploy.train.course import Course
from capdeploy.train.imitate import Teacher
from capdeploy.values.recipe import Recipe

NETWORKS = {
    "gtsrb": {
        "checkpoint": "checkpoints/resnet18-gtsrb.fp16.safetensors", "arch": "resnet18",
        "data": "gtsrb", "input_size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3,
        "classes": ["1", "2", "4", "10", "12", "13", "17", "25", "35", "38"],
    },
    "cifar": {
        "checkpoint": "checkpoints/resnet56-4bfd9763.th", "arch": "cifar_resnet:resnet56",
        "data": "cifar10", "input_size": [32, 32], "classes": ["cat", "dog", "ship"],
    },
    "imagenette": {
        "checkpoint": "checkpoints/mobilenet_v2-imagenet.pth", "arch": "mobilenet_v2",
        "data": "imagenette",
        "label_map": str(Path(__file__).parent / "imagenette-labels.toml"),
    },
}  # fmt: skip


class Found(NamedTuple):
    top1: float
    divergence: float


def recipe(network: str, data: Path, settings=(), **changes) -> Recipe:
    known = dict(NETWORKS[network])
    known["checkpoint"] = str(data / known["checkpoint"])
    known["data"] = f"folder:{data / known['data']}"
    changes = {"strategy": "ln_norm", "bench": False} | changes
    return recipes.resolve(None, {}, settings, known | changes)


def strategy_of(name: str) -> dict:
    """Read ``ocap``, ``contrast:metric=plain``; what is not of the shelf stands in as a norm."""
    plain, _, options = name.partition(":")
    if plain.startswith("tp-") or plain in {"l2", *FORMS}:
        return {"strategy": "ln_norm"}
    pairs = dict(option.split("=") for option in options.split(";") if option)
    given = {key: float(value) if value[0].isdigit() else value for key, value in pairs.items()}
    return {"strategy": plain, "strategy_args": given}


def budget_of(text: str) -> dict:
    if text.endswith("%"):
        return {"max_macs": [text], "ratio": []}
    return {"ratio": [float(text)]}


def recovered(plan, planned, wanted: Recipe, recoveries: list[str]) -> dict[str, Model]:
    """Recover as `compress` would; what several recoveries begin with is done once.

    Statistics alone, reconstruction, training from the statistics, training from the
    reconstruction; in several steps (`--set steps=2`) each on the way as well as at the end.
    """

    def follow(reconstruct: bool, epochs: int) -> making.Made:
        asked = wanted.model_copy(update={"reconstruct": reconstruct, "epochs": epochs})
        if wanted.steps > 1:
            return steps.approach("x", asked, planned, wanted.budgets()[0], Quiet())
        made = making.Made("x", plan, apply.cut(planned.full, plan))
        return making.recover(made, planned.narrow, planned.samples, asked, epochs, Quiet())

    found: dict[str, Model] = {}
    if {"none", "train"} & set(recoveries):
        plain = follow(False, wanted.epochs if "train" in recoveries else 0)
        found |= {"none": plain.recalibrated or plain.cut, "train": plain.final}
    if {"reconstruct", "both"} & set(recoveries):
        solved = follow(True, wanted.epochs if "both" in recoveries else 0)
        found |= {"reconstruct": solved.reconstructed, "both": solved.final}
    return {recovery: found[recovery] for recovery in recoveries}


def by_torch_pruning(planned, wanted: Recipe, importance: str) -> Model:
    """Cut with Torch-Pruning's own pruner: local ratio or, for a limit, its bisection of it."""
    target = wanted.budgets()[0]
    images = planned.samples.train.take(wanted.score_images, seed=wanted.seed)

    def prune(ratio: float) -> Model:
        module = planned.narrow.copy_module().eval()
        kinds = {"tp-magnitude": tp.importance.GroupMagnitudeImportance,
                 "tp-taylor": tp.importance.GroupTaylorImportance}  # fmt: skip
        pruner = tp.pruner.BasePruner(
            module, planned.narrow.example(1), importance=kinds[importance](), pruning_ratio=ratio,
            ignored_layers=[module.get_submodule(planned.narrow.head)], round_to=wanted.align,
        )  # fmt: skip
        if importance == "tp-taylor":
            for batch, labels in images.batches(wanted.batch_size):
                batch, labels = batch.to(planned.narrow.device), labels.to(planned.narrow.device)
                F.cross_entropy(module(batch), labels).backward()
        pruner.step()
        module.zero_grad()
        return planned.narrow.with_module(module)

    if target.limit is None:
        return prune(target.ratio)
    before = planned.narrow.geometry.cost().macs
    low, high = 0.0, 0.95
    best = None
    for _ in range(8):
        middle = (low + high) / 2
        made = prune(middle)
        if made.geometry.cost().macs <= target.limit.most * before:
            best, high = made, middle
        else:
            low = middle
    return best


def tp_recovered(model: Model, planned, wanted: Recipe, recovery: str) -> Model | None:
    if recovery == "reconstruct":
        return None
    shown = planned.samples.train.take(wanted.bn_images, seed=wanted.seed)
    model = batchnorm.reestimate(model, shown, batch_size=wanted.batch_size)
    if recovery == "none":
        return model
    images = planned.samples
    others = images.dropped(round(wanted.dropped_images * len(images.train)), seed=wanted.seed)
    course = Course(
        images.train, images.validation, others, Teacher(planned.narrow, wanted.temperature),
        wanted.balance, wanted.augment,
    )  # fmt: skip
    return finetune.run(model, course, making.settings_of(wanted, wanted.epochs), Quiet())[0]


@heap.kept()
@gpu.exact()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--strategies", default="ocap,lrp,taylor,l2,random")
    parser.add_argument("--budgets", default="0.5,0.75")
    parser.add_argument("--recoveries", default="none,reconstruct,train")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--allocation", default="uniform")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--divergence", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    base = recipe(options.network, options.data, options.settings)
    planned = pipeline.plan(base, Quiet())
    test = planned.samples.open_test()
    reference = evaluate.accuracy(planned.narrow, test, stage="", batch_size=64)
    print(f"head cut: {reference.top1:.1%}, n = {reference.images}, on {planned.narrow.device}",
          file=sys.stderr)  # fmt: skip
    recoveries = options.recoveries.split(",")
    print("| strategy | budget | MACs | " + " | ".join(recoveries) + " |")
    print("|:--|--:|--:|" + "--:|" * len(recoveries))
    for name in options.strategies.split(","):
        grounds: dict[int, Ground] = {}  # scores are the same for every budget
        for budget in options.budgets.split(","):
            found: dict[str, list[Found]] = {recovery: [] for recovery in recoveries}
            fewer = []
            for seed in seeds:
                began = time.monotonic()
                wanted = recipe(
                    options.network, options.data, options.settings, **strategy_of(name),
                    seed=seed, epochs=options.epochs, allocation=options.allocation,
                    **budget_of(budget),
                )  # fmt: skip
                fewer.append(one(name, wanted, planned, test, recoveries, found, grounds))
                print(f"{name} {budget} seed {seed}: {time.monotonic() - began:.0f} s "
                      f"{ {key: values[-1:] for key, values in found.items()} }",
                      file=sys.stderr, flush=True)  # fmt: skip
            cells = [spread(found[recovery], options.divergence) for recovery in recoveries]
            print(f"| {name} | {budget} | {sum(fewer) / len(fewer):.2f}x fewer | "
                  + " | ".join(cells) + " |", flush=True)  # fmt: skip


def one(name, wanted, planned, test, recoveries, found, grounds) -> float:
    before = planned.narrow.geometry.cost().macs
    if name.startswith("tp-"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cut = by_torch_pruning(planned, wanted, name)
        for recovery in recoveries:
            model = tp_recovered(cut, planned, wanted, recovery)
            if model is not None:
                found[recovery].append(judge(model, planned.narrow, test))
        return before / cut.geometry.cost().macs
    if wanted.seed not in grounds:
        grounds[wanted.seed] = ground_of(name, wanted, planned)
    ground = grounds[wanted.seed]
    plan = planning.draw(ground, wanted.budgets()[0])
    planned = replace(planned, ground=ground)
    made = recovered(plan, planned, wanted, recoveries)
    for recovery, model in made.items():
        found[recovery].append(judge(model, planned.narrow, test))
    return before / made[recoveries[0]].geometry.cost().macs


def ground_of(name, wanted, planned) -> Ground:
    classes = planned.full.classes
    head_cut, full = head.cut_of(planned.full, classes), planned.full.geometry.cost()
    if name in FORMS:
        found_groups = groups.find(planned.narrow)
        shown = planned.samples.train.take(wanted.score_images, seed=wanted.seed)
        judged = score.Judged(
            planned.narrow, found_groups, shown, None, wanted.batch_size, wanted.seed
        )
        scores = score.judge(name, FORMS[name], judged)
        return Ground(scores, found_groups, planned.narrow.geometry, head_cut, full)
    return scoring.ground(
        wanted, planned.narrow, planned.samples, Quiet(), head=head_cut, full=full
    )


def judge(model: Model, teacher: Model, test) -> Found:
    given, wanted = (
        torch.cat([answers for answers, _ in evaluate.answered(each, test, 64)]).log_softmax(1)
        for each in (model, teacher)
    )
    apart = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
    right = given.argmax(1) == model.targets(torch.from_numpy(test.labels))
    return Found(fmean(right.tolist()), float(apart))


def spread(found: list[Found], divergence: bool) -> str:
    if not found:
        return "-"
    cell = f"{fmean(each.top1 for each in found):.1%}"
    if len(found) > 1:
        least, most = min(each.top1 for each in found), max(each.top1 for each in found)
        cell += f" ({least:.1%}..{most:.1%})"
    return cell + f", {fmean(each.divergence for each in found):.3f}" * divergence


if __name__ == "__main__":
    main()

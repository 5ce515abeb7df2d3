"""pytest-benchmark suite of the street: scoring, planning, cutting, exporting, one inference.

pytest benchmarks --benchmark-enable --benchmark-only
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch

from capdeploy import heap, score
from capdeploy.bench.clock import WallClock
from capdeploy.bench.measure import one
from capdeploy.export import graph, skeleton
from capdeploy.model import Model, example
from capdeploy.observe.taps import requiring_grad
from capdeploy.observe.trace import trace
from capdeploy.prune import apply, groups
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.rebuild import narrow
from capdeploy.runtimes import RUNTIMES
from capdeploy.score import repair
from capdeploy.strategies import STRATEGIES
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.checkpoint import Architecture, Checkpoint, Preprocessing
from capdeploy.zoo import SOURCES

CHEAP = [name for name in STRATEGIES.names() if name not in {"shapley", "contrast"}]
"""The others cost minutes by design; ``shapley`` says how many before it starts."""


IMAGES, MOST = 1000, 1.5
"""What scoring may cost at most, in passes of the bare network over as many images."""
FORWARD, BACK, WEIGHTS = "forward", "forward and backward", "forward and backward, weights too"
"""Passes of the bare network: the second takes no gradient of the weights, which scores need not
have either; the third is what a backward pass is in PyTorch if nothing is said."""


def judged(planned, count):
    train = planned.samples.train
    rows, labels = (np.resize(each, count) for each in (train.rows, train.labels))
    images = replace(train, rows=rows, labels=labels)
    return score.Judged(planned.narrow, groups.find(planned.narrow), images, None, 128, 0)


@pytest.mark.parametrize("strategy", CHEAP)
def test_score(benchmark, planned, strategy):
    """1,000 images; compare with the bare passes below."""
    what = judged(planned, IMAGES)
    result = benchmark.pedantic(score.run, (strategy, what), rounds=2, warmup_rounds=1)
    assert len(result.layers) == 20


@pytest.mark.parametrize(
    ("strategy", "passes"),
    [("ocap", FORWARD), ("apoz", FORWARD), ("taylor", BACK), ("sensitivity", BACK), ("hwai", BACK),
     ("lrp", BACK), ("lrp", WEIGHTS)],
)  # fmt: skip
def test_scoring_costs_little_more_than_the_bare_passes(
    benchmark, planned, strategy, passes, capsys
):
    """In turns with them, so that a machine that changes its pace changes both."""
    what, bare, clock = judged(planned, IMAGES), [], WallClock()

    def first():
        began = clock.now_ns()
        through(what, passes)
        bare.append(1e-9 * (clock.now_ns() - began))

    with heap.kept():  # as `compress` does
        benchmark.pedantic(score.run, (strategy, what), setup=first, rounds=5, warmup_rounds=1)
    took = benchmark.stats.stats.data
    times = sorted(mine / theirs for mine, theirs in zip(took, bare[-len(took) :], strict=True))
    with capsys.disabled():
        spread = f"{times[0]:.2f} to {times[-1]:.2f}, {len(times)} pairs, {IMAGES} images"
        print(f"\n{strategy}: {median(times):.2f} times {passes} ({spread})")
    assert median(times) <= MOST


def test_repair(benchmark, planned):
    """The same images; what limits on MACs, parameters and size go by."""
    what = judged(planned, IMAGES)
    leaving = {group.name: range(group.width) for group in what.groups}
    found = benchmark.pedantic(repair.curves, (what, leaving), rounds=2, warmup_rounds=1)
    assert len(found) == 12


@pytest.mark.parametrize("passes", [FORWARD, BACK, WEIGHTS])
def test_bare_passes(benchmark, planned, passes):
    """What scoring costs at the least: the same images through the bare network."""
    benchmark.pedantic(through, (judged(planned, IMAGES), passes), rounds=2, warmup_rounds=1)


def through(what, passes):
    """Show all images to the bare network."""
    network = what.model.module
    with requiring_grad(network, passes == WEIGHTS):
        for batch, _ in what.images.batches(128):
            if passes == FORWARD:
                with torch.no_grad():
                    network(batch)
            else:
                network(batch.requires_grad_(True)).sum().backward()


def test_find_groups(benchmark, planned):
    assert len(benchmark.pedantic(groups.find, (planned.narrow,), rounds=5)) == 12


def test_draw_plan(benchmark, planned):
    what = judged(planned, 32)
    cost = planned.narrow.geometry.cost()
    ground = Ground(score.run("ln_norm", what), what.groups, planned.narrow.geometry, None, cost)
    plan = benchmark(planning.draw, ground, planned.plans[1].budget)
    assert plan.realised_ratio == 0.75


def test_cut(benchmark, planned):
    cut = benchmark.pedantic(apply.cut, (planned.full, planned.plans[1]), rounds=5)
    assert cut.geometry.cost() == planned.plans[1].after


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_plan_and_cut_resnet50(benchmark, allocation):
    """ResNet-50 at 224 px, 30 % of the MACs to go: groups, scores by norm, plan and cut."""
    module = SOURCES.load("torchvision").build("resnet50", {}, 1000).eval()
    preprocessing = Preprocessing(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    seen = trace(module, example(preprocessing))
    origin = Checkpoint(
        file="none", sha256="0" * 64, architecture=Architecture.parse("resnet50"), outputs=1000,
        stored_dtype="float32", input=preprocessing,
    )  # fmt: skip
    model = Model(module, origin, preprocessing, seen)
    budget = Budget(limit=Limit.parse("macs", "70%"), allocation=allocation)
    found = groups.find(model)
    scores = score.run("ln_norm", score.Judged(model, found, None, None, 8, 0))
    ground = Ground(scores, found, model.geometry, None, model.geometry.cost())

    def run():
        plan = planning.draw(ground, budget)
        narrow(model.copy_module(), plan.layers)
        return plan

    plan = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert plan.after.macs <= 0.7 * plan.before.macs


def test_export(benchmark, planned, tmp_path):
    cut = apply.cut(planned.full, planned.plans[1])
    benchmark.pedantic(graph.export, (cut, tmp_path / "x.onnx", {}), rounds=1)


def test_fill(benchmark, planned, tmp_path):
    """What a candidate of a search costs instead of an export."""
    cut, form = apply.cut(planned.full, planned.plans[1]), skeleton.of(planned.narrow)
    assert benchmark.pedantic(skeleton.fill, (form, cut, tmp_path / "x.onnx"), rounds=3)


@pytest.mark.parametrize("role", ["baseline", "compressed"])
@pytest.mark.parametrize("runtime", RUNTIMES.names())
def test_inference(benchmark, bundles, runtime, role):
    """One image, one thread; compare roles only within one run of the suite."""
    if "cpu" not in RUNTIMES.load(runtime).devices():
        pytest.skip(f"{runtime} cannot run on the CPU here")
    session = RUNTIMES.load(runtime).open(bundles[role], "cpu", 1)
    batch = np.zeros((1, 3, 32, 32), np.float32)
    logits = benchmark(session.run, batch)
    assert logits.shape == (1, 4)
    session.close()


def test_overhead_of_timing(benchmark):
    """What capdeploy's own timing adds to an inference that does nothing."""

    class Nothing:
        def run(self, batch):
            return batch

        def close(self):
            pass

    clock, batch = WallClock(), np.zeros((1, 3, 1, 1), np.float32)
    benchmark(one, Nothing(), batch, clock)

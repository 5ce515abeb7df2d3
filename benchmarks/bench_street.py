"""pytest-benchmark suite of the street: scoring, planning, cutting, exporting, one inference.

pytest benchmarks --benchmark-enable --benchmark-only
"""

from __future__ import annotations

import numpy as np
import pytest

from capdeploy import score
from capdeploy.bench.clock import WallClock
from capdeploy.bench.measure import one
from capdeploy.export import graph
from capdeploy.prune import apply, groups
from capdeploy.prune import plan as planning
from capdeploy.runtimes import RUNTIMES
from capdeploy.strategies import STRATEGIES


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_score(benchmark, planned, strategy):
    """128 images of 32x32 through ResNet-18."""
    images = planned.samples.train.take(128, seed=0)
    result = benchmark.pedantic(
        score.run, (strategy, planned.narrow, images), {"batch_size": 32, "seed": 0},
        rounds=3, warmup_rounds=1,
    )  # fmt: skip
    assert len(result.layers) == 20


def test_bare_forward(benchmark, planned):
    """What scoring costs at the least: the same images through the bare network."""
    import torch

    images = planned.samples.train.take(128, seed=0)

    def forward():
        with torch.no_grad():
            for batch, _ in images.batches(32):
                planned.narrow.module(batch)

    benchmark.pedantic(forward, rounds=3, warmup_rounds=1)


def test_find_groups(benchmark, planned):
    assert len(benchmark.pedantic(groups.find, (planned.narrow,), rounds=5)) == 12


def test_draw_plan(benchmark, planned):
    images = planned.samples.train.take(32, seed=0)
    scores = score.run("ln_norm", planned.narrow, images, batch_size=32, seed=0)
    coupled, shape = groups.find(planned.narrow), planned.narrow.geometry
    budget = planned.plans[1].budget
    plan = benchmark(planning.draw, scores, coupled, budget, shape, head=None, full=shape.cost())
    assert plan.realised_ratio == 0.75


def test_cut(benchmark, planned):
    cut = benchmark.pedantic(apply.cut, (planned.full, planned.plans[1]), rounds=5)
    assert cut.geometry.cost() == planned.plans[1].after


def test_export(benchmark, planned, tmp_path):
    cut = apply.cut(planned.full, planned.plans[1])
    benchmark.pedantic(graph.export, (cut, tmp_path / "x.onnx", {}), rounds=1)


@pytest.mark.parametrize("role", ["baseline", "compressed"])
@pytest.mark.parametrize("runtime", RUNTIMES.names())
def test_inference(benchmark, bundles, runtime, role):
    """One image, one thread; compare roles only within one run of the suite."""
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

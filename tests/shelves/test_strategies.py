"""Every strategy of the shelf, whichever there are, plus each paper's own reference."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capdeploy import score
from capdeploy.strategies import STRATEGIES, Seen, Strategy, Summary, Watch
from capdeploy.strategies.ocap import SLOPE
from capdeploy.train import head
from tests.references import scoring

ALL = STRATEGIES.names()


def summarise(strategy: Strategy, values: torch.Tensor) -> torch.Tensor:
    """Score (N, C, H, W) values in one go, as the engine would."""
    generator = torch.Generator().manual_seed(0)
    statistic = strategy.per_image(Seen(values=values, generator=generator)).double()
    return strategy.per_filter(
        Summary(mean=statistic.mean(0), maximum=statistic.amax(0), images=len(statistic))
    )


@pytest.fixture
def narrow(residual, digits):
    return head.cut(residual, digits.classes)


@pytest.mark.parametrize("name", ALL)
def test_a_member_is_complete(name):
    strategy = STRATEGIES.load(name)
    assert isinstance(strategy, Strategy)
    assert len(strategy.paper) > 20
    assert len(strategy.summary) > 10


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_finite(name):
    values = torch.randn(5, 7, 3, 2, generator=torch.Generator().manual_seed(1))
    scores = summarise(STRATEGIES.load(name), values)
    assert scores.shape == (7,)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", [name for name in ALL if name != "random"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permuting_filters_permutes_scores(name, seed):
    generator = torch.Generator().manual_seed(seed)
    # Rounded to few levels, so that ties occur and their treatment is tested too.
    values = torch.randn(6, 9, 2, 2, generator=generator).round(decimals=0)
    order = torch.randperm(9, generator=generator)
    strategy = STRATEGIES.load(name)
    assert torch.allclose(summarise(strategy, values)[order], summarise(strategy, values[:, order]))


@pytest.mark.parametrize("name", ALL)
def test_scoring_leaves_no_trace(name, narrow, digits):
    module = narrow.module
    module.train()
    module.conv1.eval()
    next(module.parameters()).requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    flags = [(layer.training, len(layer._forward_hooks)) for layer in module.modules()]
    grads = [(p.requires_grad, p.grad) for p in module.parameters()]
    score.run(name, narrow, digits.train.take(12, seed=0), batch_size=4, seed=0)
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert flags == [(layer.training, len(layer._forward_hooks)) for layer in module.modules()]
    assert grads == [(p.requires_grad, p.grad) for p in module.parameters()]


@pytest.mark.parametrize("name", ALL)
def test_deterministic_for_a_seed(name, narrow, digits):
    images = digits.train.take(20, seed=0)
    first = score.run(name, narrow, images, batch_size=8, seed=3)
    assert first == score.run(name, narrow, images, batch_size=8, seed=3)
    if name == "random":
        assert first != score.run(name, narrow, images, batch_size=8, seed=4)


@pytest.mark.parametrize("name", ALL)
def test_independent_of_batch_size(name, narrow, digits):
    images = digits.train.take(30, seed=0)
    one = score.run(name, narrow, images, batch_size=1, seed=0)
    all_ = score.run(name, narrow, images, batch_size=30, seed=0)
    for left, right in zip(one.layers, all_.layers, strict=True):
        # Batched kernels round differently; a rank near a tie may then move by one place.
        tolerance = 2 / len(left.values) if name == "ocap" else 1e-4
        assert left.values == pytest.approx(right.values, rel=1e-3, abs=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_every_filter_making_layer_but_the_head_is_scored(name, narrow, digits):
    scores = score.run(name, narrow, digits.train.take(6, seed=0), batch_size=6, seed=0)
    widths = {entry.layer: len(entry.values) for entry in scores.layers}
    assert widths == {
        "stem": 16, "conv1": 16, "conv2": 16, "expand": 32, "depthwise": 32, "project": 16
    }  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ALL if STRATEGIES.load(n).watch is not Watch.WEIGHTS])
def test_what_is_held_does_not_grow_with_the_images(name, narrow, digits):
    """Between batches only two vectors per layer remain, however many images were seen."""
    import gc

    images = digits.train

    def held_after(count: int) -> int:
        seen = []

        def watch(module, inputs):
            gc.collect()
            sizes = [o.numel() for o in gc.get_objects() if type(o) is torch.Tensor]
            seen.append(sum(sizes))

        handle = narrow.module.register_forward_pre_hook(watch)
        try:
            score.run(name, narrow, images.take(count, seed=0), batch_size=8, seed=0)
        finally:
            handle.remove()
        return seen[-1]

    few, many = held_after(16), held_after(96)
    assert many <= few * 1.05


def test_ocap_orders_as_the_union_does():
    maps = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    fast = summarise(STRATEGIES.load("ocap"), maps)
    slow = scoring.ocap_union_order(maps, SLOPE)
    for one in range(8):
        for other in range(8):
            if slow[one] > slow[other]:
                assert fast[one] > fast[other]


def test_ocap_settles_ties_by_the_mean():
    # Channels 0 and 1 are each the loudest of one image; 1 is the louder one elsewhere too.
    maps = torch.tensor([[9.0, 1, 2, 3], [1, 9, 2, 3], [1, 8, 2, 9]])[..., None, None]
    fast = summarise(STRATEGIES.load("ocap"), maps)
    assert fast[1] > fast[0] > fast[2]
    assert fast[3] > fast[2]


def test_taylor_is_the_derivative_of_the_loss(chain, digits):
    narrow = head.cut(chain, digits.classes)
    images = digits.train.take(6, seed=0)
    fast = score.run("taylor", narrow, images, batch_size=3, seed=0)
    batch, labels = next(images.batches(6))
    # The second convolution has no norm behind it: its own response is what is scaled.
    double = narrow.copy_module().double()
    slow = scoring.taylor_by_zeroing(double, "features.4", batch.double(), labels)
    assert fast.of("features.4") == pytest.approx(slow, rel=1e-3, abs=1e-6)


def test_taylor_before_the_relu_equals_after_it():
    response = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    before = response.clone().requires_grad_()
    after = before.relu()
    after.retain_grad()
    (after.square() * torch.arange(5.0).view(5, 1, 1)).sum().backward()
    strategy = STRATEGIES.load("taylor")
    assert torch.allclose(
        summarise(strategy, before.detach() * before.grad),
        summarise(strategy, after.detach() * after.grad),
    )


def test_ln_norm_is_the_norm_of_each_filter(narrow):
    scores = score.run("ln_norm", narrow, None, batch_size=1, seed=0)
    expected = scoring.filter_norms(narrow.module.conv1.weight, 2)
    assert scores.of("conv1") == pytest.approx(expected, rel=1e-5)
    assert scores.images == 0


def test_class_aware_strategies_look_at_the_classes(narrow, digits):
    """Scores must follow the kept classes: other labels, other scores (for Taylor)."""
    from dataclasses import replace

    images = digits.train.take(20, seed=0)
    swapped = replace(images, labels=(images.labels + 1) % 3)
    for name in ALL:
        same = score.run(name, narrow, images, batch_size=10, seed=0) == score.run(
            name, narrow, swapped, batch_size=10, seed=0
        )
        assert same == (STRATEGIES.load(name).watch is not Watch.ACTIVATION_GRADIENTS)

"""Every strategy of the shelf, whichever there are, plus each paper's own reference."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capdeploy import score
from capdeploy.errors import ConfigError, PlanError, StepFailedError
from capdeploy.observe import ablation, signals
from capdeploy.observe.relevance import Explainer
from capdeploy.observe.taps import tapped
from capdeploy.progress import Quiet
from capdeploy.prune import groups, votes
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.score import layers
from capdeploy.strategies import STRATEGIES, Consumer, Coupled, Seen, Strategy, Summary, Watch
from capdeploy.train import head
from capdeploy.values.budget import Budget
from capdeploy.values.classes import ClassSubset
from capdeploy.values.scores import FilterScores, LayerScores
from tests import nets
from tests.conftest import shaken, wrap
from tests.references import scoring

ALL = STRATEGIES.names()


LAYERED = tuple(name for name in ALL if STRATEGIES.load(name).per_channel is None)
DATA_FREE = (Watch.WEIGHTS, Watch.NORM_SCALES, Watch.COUPLED_WEIGHTS)
SEEING = tuple(name for name in ALL if STRATEGIES.load(name).watch not in DATA_FREE)


def summarise(strategy: Strategy, values: torch.Tensor, **given) -> torch.Tensor:
    """Score (N, C, H, W) values in one go, as the engine would; the images' classes alternate."""
    generator = torch.Generator().manual_seed(0)
    options = strategy.settle(given, name="x")
    statistic = strategy.per_image(
        Seen(values=values, generator=generator, options=options)
    ).double()
    return strategy.per_filter(
        Summary(
            mean=statistic.mean(0), maximum=statistic.amax(0), images=len(statistic),
            by_class=torch.stack([statistic[::2].mean(0), statistic[1::2].mean(0)]),
            options=options,
        )
    )  # fmt: skip


def scored(name, model, shown, *, batch_size=8, seed=0, others=None, **given):
    """Score as `compress` does; Shapley with as few passes as make sense."""
    if name == "shapley":
        given = {"permutations": 1, "images": 8} | given
    judged = score.Judged(model, groups.find(model), shown, others, batch_size, seed)
    return score.run(name, judged, given)


@pytest.fixture
def narrow(residual, digits):
    return head.cut(residual, digits.classes)


@pytest.mark.parametrize("name", ALL)
def test_a_member_is_complete(name):
    strategy = STRATEGIES.load(name)
    assert isinstance(strategy, Strategy)
    assert len(strategy.paper) > 20
    assert len(strategy.summary) > 10


@pytest.mark.parametrize("name", LAYERED)
def test_shapes_and_finite(name):
    values = torch.randn(5, 7, 3, 2, generator=torch.Generator().manual_seed(1))
    scores = summarise(STRATEGIES.load(name), values)
    assert scores.shape == (7,)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", [name for name in LAYERED if name != "random"])
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
    scored(name, narrow, digits.train.take(12, seed=0), batch_size=4, seed=0)
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert flags == [(layer.training, len(layer._forward_hooks)) for layer in module.modules()]
    assert grads == [(p.requires_grad, p.grad) for p in module.parameters()]


@pytest.mark.parametrize("name", ALL)
def test_deterministic_for_a_seed(name, narrow, digits):
    images = digits.train.take(20, seed=0)
    first = scored(name, narrow, images, batch_size=8, seed=3)
    assert first == scored(name, narrow, images, batch_size=8, seed=3)
    if name == "random":
        assert first != scored(name, narrow, images, batch_size=8, seed=4)


@pytest.mark.parametrize("name", ALL)
def test_independent_of_batch_size(name, narrow, digits):
    images = digits.train.take(30, seed=0)
    one = scored(name, narrow, images, batch_size=1, seed=0)
    all_ = scored(name, narrow, images, batch_size=30, seed=0)
    for left, right in zip(one.layers, all_.layers, strict=True):
        # Batched kernels round differently; a rank near a tie may then move by one place.
        tolerance = 2 / len(left.values) if name == "ocap" else 1e-4
        if name == "contrast":  # directions are drawn batch by batch
            continue
        assert left.values == pytest.approx(right.values, rel=1e-3, abs=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_every_filter_making_layer_but_the_head_is_scored(name, narrow, digits):
    scores = scored(name, narrow, digits.train.take(6, seed=0), batch_size=6, seed=0)
    widths = {entry.layer: len(entry.values) for entry in scores.layers}
    if name == "bn_scale":
        assert set(widths) == {"stem", "conv1", "conv2"}  # the others have no normalisation
        return
    assert widths == {
        "stem": 16, "conv1": 16, "conv2": 16, "expand": 32, "depthwise": 32, "project": 16
    }  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ALL if n != "bn_scale"])
@pytest.mark.parametrize("network", ["Joined", "Pyramid"])
def test_networks_with_habits_of_their_own_are_scored_whole(name, network, digits):
    """Layers side by side, of a class of the user's own, and one that runs at two resolutions."""
    torch.manual_seed(0)
    narrow = head.cut(wrap(getattr(nets, network)()), digits.classes)
    scores = scored(name, narrow, digits.train.take(6, seed=0), batch_size=6, seed=0)
    expected = {"Joined": {"left", "right", "both"}, "Pyramid": {"stem", "shared"}}[network]
    assert {entry.layer for entry in scores.layers} == expected
    for group in groups.find(narrow):
        assert all(math.isfinite(value) for value in votes.group_scores(group, scores))


def test_a_layer_that_has_some_of_the_channels_does_not_count_for_the_others(digits):
    narrow = head.cut(wrap(nets.Joined()), digits.classes)
    alike = FilterScores(
        strategy="x", images=0, seed=0,
        layers=tuple(
            LayerScores(layer=layer, values=(1.0,) * width)
            for layer, width in (("left", 8), ("right", 8), ("both", 16))
        ),
    )  # fmt: skip
    [group] = [each for each in groups.find(narrow) if each.width == 16]
    assert votes.group_scores(group, alike) == [1.0] * 16


def test_a_whole_head_of_many_outputs_takes_no_more_memory(digits):
    subset = ClassSubset(kept=(0, 901), names=("a", "b"), total=1000)
    torch.manual_seed(0)
    whole = dataclasses.replace(wrap(nets.Chain(1000)), classes=subset)
    plain, rows = STRATEGIES.load("hwai"), []

    def per_filter(summary):
        rows.append(len(summary.by_class))
        return plain.per_filter(summary)

    few = digits.train.take(6, seed=0)
    few = dataclasses.replace(few, labels=few.labels % 2)
    judged = score.Judged(whole, groups.find(whole), few, None, 6, 0)
    counting = dataclasses.replace(plain, per_filter=per_filter)
    scores, used = layers.score(counting, judged, {}, Quiet())
    assert used == 6
    assert set(rows) == {2}
    assert 0 < float(scores["features.0"].max()) <= 2


@pytest.mark.parametrize("name", [n for n in SEEING if n != "shapley"])
def test_what_is_held_does_not_grow_with_the_images(name, digits):
    """Between batches only two vectors per layer remain, however many images were seen."""
    import gc

    torch.manual_seed(0)
    narrow = head.cut(wrap(shaken(nets.Chain(width=4))), digits.classes)
    rows, labels = (np.resize(each, 10_000) for each in (digits.train.rows, digits.train.labels))
    images = dataclasses.replace(digits.train, rows=rows, labels=labels)

    def held_after(count: int) -> int:
        passes, held = 0, []

        def count_passes(module, inputs):
            nonlocal passes
            passes += 1

        def watch(module, inputs):
            nonlocal passes
            passes -= 1
            if passes == 0:  # the last one: looking through all objects takes its time
                gc.collect()
                held.extend(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor)

        for hook in (count_passes, watch):
            handle = narrow.module.register_forward_pre_hook(hook)
            try:
                scored(name, narrow, images.take(count, seed=0), batch_size=50, seed=0)
            finally:
                handle.remove()
        assert held
        return sum(held)

    few, many = held_after(100), held_after(10_000)
    assert many <= few * 1.05


@pytest.mark.parametrize(
    ("name", "backward"), [("ocap", 0), ("apoz", 0), ("taylor", 1), ("hwai", 1), ("contrast", 1)]
)
def test_an_image_is_passed_once_forward_and_once_back_at_most(name, backward, narrow, digits):
    """LRP runs a copy of its own; see the test below."""
    few = digits.train.take(24, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), few, None, 8, 0)
    counts = {"forward": 0, "backward": 0}
    first = narrow.module.get_submodule(narrow.trace.filters[0])

    def forth(module, inputs, output):
        counts["forward"] += 1
        if output.requires_grad:
            output.register_hook(back)

    def back(gradient):
        counts["backward"] += 1

    handle = first.register_forward_hook(forth)
    score.run(name, judged)
    handle.remove()
    assert counts == {"forward": 3, "backward": 3 * backward}


def test_relevance_of_additions_is_handed_back_as_asked(narrow, digits):
    images = digits.train.take(12, seed=0)
    signed, named, epsilon = (
        scored("lrp", narrow, images, **given)
        for given in ({}, {"addition": "signed"}, {"addition": "epsilon"})
    )
    assert signed == named
    assert signed != epsilon


def test_relevance_takes_one_pass_forward_and_one_back(narrow, digits, monkeypatch):
    """They run in a copy that no hook on the network hears, so its two ways in are counted; both
    still do their work."""
    shown = {"forward": [], "explain": []}
    explain, forward = Explainer.explain, Explainer._forward

    def counted(name, call):
        def wrapped(self, images, *given, **named):
            shown[name].append(len(images))
            return call(self, images, *given, **named)

        return wrapped

    monkeypatch.setattr(Explainer, "explain", counted("explain", explain))
    monkeypatch.setattr(Explainer, "_forward", counted("forward", forward))
    scored("lrp", narrow, digits.train.take(24, seed=0), batch_size=8)
    # Two images of noise first prove that what is explained is the network.
    assert shown == {"forward": [2, 8, 8, 8], "explain": [8, 8, 8]}


@pytest.mark.parametrize("name", SEEING)
def test_activations_that_are_not_finite_are_refused(name, narrow, digits):
    """The weights are finite: a running variance below zero makes NaN of what it divides."""
    norm = narrow.trace.norm_of[narrow.trace.filters[0]]
    with torch.no_grad():
        narrow.module.get_submodule(norm).running_var.fill_(-1.0)
    with pytest.raises((PlanError, StepFailedError), match=r"finite|nan"):
        scored(name, narrow, digits.train.take(12, seed=0))


def test_where_a_strategy_tells_no_filter_from_another_it_is_said(narrow, digits):
    lines = []

    class Heard(Quiet):
        def note(self, message):
            lines.append(message)

    norms = [narrow.module.get_submodule(name) for name in narrow.trace.norm_of.values()]
    with torch.no_grad():
        for norm in norms:
            norm.weight.fill_(1.0)
    shown = digits.train.take(8, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), shown, None, 8, 0)
    score.run("bn_scale", judged, {}, Heard())
    assert "bn_scale scores all filters of a layer alike in" in lines[-1]
    score.run("ocap", judged, {}, Heard())
    assert len(lines) == 1


def test_plain_contrast_is_in_no_unit_that_groups_share(narrow, digits):
    """Its harm is then the repair's, as every other strategy's."""
    shown = digits.train.take(24, seed=0)
    assert scored("contrast", narrow, shown).cumulative
    assert not scored("contrast", narrow, shown, metric="plain").cumulative


def test_ocap_orders_as_the_union_does():
    maps = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    fast = summarise(STRATEGIES.load("ocap"), maps)
    slow = scoring.ocap_union_order(maps, 0.4)
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
    fast = scored("taylor", narrow, images, batch_size=3, seed=0)
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
    scores = scored("ln_norm", narrow, None, batch_size=1, seed=0)
    bn = narrow.module.bn1
    fold = bn.weight / (bn.running_var + bn.eps).sqrt()
    expected = scoring.filter_norms(narrow.module.conv1.weight * fold.view(-1, 1, 1, 1), 2)
    assert scores.of("conv1") == pytest.approx(expected, rel=1e-5)
    assert scores.images == 0


BLIND = ("contrast", *[n for n in ALL if STRATEGIES.load(n).watch is Watch.ACTIVATIONS])


@pytest.mark.parametrize("name", ALL)
def test_class_aware_strategies_look_at_the_classes(name, narrow, digits):
    """Scores must follow the labels, unless only the choice of images makes them class-aware."""
    from dataclasses import replace

    images = digits.train.take(20, seed=0)
    swapped = replace(images, labels=(images.labels + 1) % 3)
    same = scored(name, narrow, images) == scored(name, narrow, swapped)
    assert same == (name in BLIND or not STRATEGIES.load(name).class_aware)


def test_ocap_counts_how_often_an_image_keeps_a_filter():
    maps = torch.randn(40, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    fast = summarise(STRATEGIES.load("ocap"), maps, aggregation="frequency", nominal=0.75)
    norms = torch.nn.functional.leaky_relu(maps, 0.4).flatten(2).norm(dim=2)
    counts = torch.zeros(8)
    for image in norms:
        for channel in image.argsort(descending=True)[:2].tolist():
            counts[channel] += 1
    assert torch.allclose(fast.float(), counts / 40, atol=1e-5)


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_ocap_reports_the_nominal_ratio_of_a_width(narrow, digits, kept):
    """Dropping that share of every image's filters, and uniting what is kept, gives the width."""
    images = digits.train.take(30, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), images, None, 30, 0)
    ground = Ground(
        score.run("ocap", judged), judged.groups, narrow.geometry, None, narrow.geometry.cost()
    )
    plan = planning.draw(ground, Budget(ratio=1 - kept / 16, align=1))
    cut = next(cut for cut in plan.groups if cut.group == "conv1")
    responses = []
    with tapped(narrow.module, ["bn1"], lambda n, m, i, output: responses.append(output.clone())):
        batch, _ = next(images.batches(30))
        with torch.no_grad():
            narrow.module(batch)
    union = scoring.ocap_union(responses[0], 0.4, cut.nominal_ratio)
    assert union <= set(cut.kept)
    # Filters that tie with the highest dropped one are the only ones that may differ.
    fewer = scoring.ocap_union(responses[0], 0.4, cut.nominal_ratio - 1 / 16)
    assert set(cut.kept) <= fewer


def test_sensitivity_is_the_absolute_gradient(chain, digits):
    narrow = head.cut(chain, digits.classes)
    images = digits.train.take(5, seed=0)
    fast = scored("sensitivity", narrow, images, batch_size=2)
    slow = scoring.absolute_gradients(narrow.module, "features.4", images)
    assert fast.of("features.4") == pytest.approx(slow, rel=1e-3)


class TwoConvolutions(nn.Module):
    """Nothing absorbs relevance in it."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False)
        self.head = nn.Linear(80, num_classes, bias=False)

    def forward(self, images):
        maps = torch.relu(self.second(torch.relu(self.first(images))))
        return self.head(maps.flatten(1))


def test_lrp_is_the_relevance_that_flows_through(digits):
    torch.manual_seed(0)
    narrow = head.cut(wrap(TwoConvolutions()), digits.classes)
    few = digits.train.take(5, seed=0)
    fast = scored("lrp", narrow, few, batch_size=2)
    batch, labels = next(few.batches(5))
    flows = [
        scoring.relevance_of_two_convolutions(narrow.module, image, int(target))
        for image, target in zip(batch, labels, strict=True)
    ]
    for layer, maps in zip(("first", "second"), zip(*flows, strict=True), strict=True):
        slow = torch.stack(maps).abs().flatten(2).sum(dim=2).mean(dim=0)
        assert fast.of(layer) == pytest.approx(slow.tolist(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("apoz", scoring.share_of_positive), ("hwai", scoring.classes_that_a_position_matters_to)],
)
def test_counts_are_those_made_value_by_value(name, reference, chain, digits):
    narrow = head.cut(chain, digits.classes)
    few = digits.train.take(9, seed=0)
    fast = scored(name, narrow, few, batch_size=4)
    assert fast.of("features.4") == pytest.approx(reference(narrow.module, "features.4", few))


def test_apoz_is_the_share_of_positive_positions():
    maps = torch.tensor([[[[1.0, -1.0]], [[2.0, 3.0]]], [[[-1.0, -1.0]], [[0.0, 1.0]]]])
    assert summarise(STRATEGIES.load("apoz"), maps).tolist() == [0.25, 0.75]


def test_bn_scale_is_the_absolute_scale(narrow):
    found = scored("bn_scale", narrow, None)
    assert found.of("conv1") == pytest.approx(narrow.module.bn1.weight.abs().tolist())


def test_shapley_sums_to_the_whole_loss_and_matches_all_orders(chain, digits):
    """Every order tells the same story in sum; over all orders it is Shapley's value."""
    narrow = head.cut(chain, digits.classes)
    few = digits.train.take(4, seed=0)
    found = scored("shapley", narrow, few, permutations=3, images=4)
    gone, whole = scoring.loss_without(narrow.module, "hidden", range(24), few)
    assert sum(found.of("hidden")) == pytest.approx(gone - whole, abs=1e-4)
    exact = scoring.shapley_by_enumeration(lambda gone: float(sum(gone) ** 2), 4)
    assert exact == pytest.approx([0.0, 6.0, 12.0, 18.0])  # the reference itself: v = (sum)^2


def test_shapley_is_the_value_over_all_orders(digits):
    """Of four filters there are 24 orders; enough draws of them come to the exact value."""
    torch.manual_seed(0)
    narrow = head.cut(wrap(shaken(nets.Chain(width=4))), digits.classes)
    few = digits.train.take(4, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), few, None, 4, 0)
    orders = [torch.tensor(order) for order in itertools.permutations(range(4))]
    heard = []
    batch, labels = next(few.batches(4))
    ablation.ablations(
        narrow.module, narrow.trace, batch, labels,
        lambda name, rise: heard.append(rise) if name == "features.0" else None,
        orders={name: orders if name == "features.0" else []
                for name in signals.watched_layers(narrow.trace).values()},
        say=Quiet(),
    )  # fmt: skip
    fast = summarise(STRATEGIES.load("shapley"), torch.cat(heard))
    tap = "features.1"  # the normalisation that the filters' responses are taken behind

    def rise(gone):
        left, whole = scoring.loss_without(narrow.module, tap, gone, few)
        return left - whole

    assert fast.tolist() == pytest.approx(scoring.shapley_by_enumeration(rise, 4), abs=1e-5)
    drawn = score.run("shapley", judged, {"permutations": 400, "images": 4}).of("features.0")
    assert drawn == pytest.approx(fast.tolist(), abs=0.1 * float(fast.abs().max()))


def test_hwai_counts_classes_at_the_best_position():
    # Filter 0 matters to class 0 (even images) at one place, to class 1 at the other.
    values = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 1.0]], [[1.0, 0.0]]]])
    assert summarise(STRATEGIES.load("hwai"), values).tolist() == [1.0, 2.0]


def test_group_norm_takes_in_all_coupled_weights(narrow):
    found = scored("group_norm", narrow, None)
    module = narrow.module
    for channel in (0, 5):
        parts = [
            module.conv1.weight[channel], module.bn1.weight[channel], module.bn1.bias[channel],
            module.conv2.weight[:, channel],
        ]  # fmt: skip
        size = sum(float(part.detach().square().sum()) for part in parts) ** 0.5
        assert found.of("conv1")[channel] == pytest.approx(size, rel=1e-5)


def test_one_slope_for_all_channels_is_nobody_s_weight():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    found = scored("group_norm", wrap(network), None)
    sizes = network[0].weight.detach().square().sum(dim=(1, 2, 3))
    sizes += network[0].bias.detach().square() + network[2].weight.detach().square().sum((0, 2, 3))
    assert found.of("0") == pytest.approx(sizes.sqrt().tolist(), rel=1e-5)


def test_contrast_removes_what_the_readers_can_rebuild():
    """Against a slow reference that solves every least-squares problem from scratch."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    inputs[:, 3] = inputs[:, 0] + 0.01 * inputs[:, 3]  # 3 can be rebuilt from 0
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weight[3] *= 5.0  # although it is the loudest
    matter = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    consumer = Consumer(
        covariance=torch.cov(inputs.T, correction=0), weight=weight, importance=matter,
        columns=torch.arange(6)[:, None], place=torch.arange(6),
    )  # fmt: skip
    strategy = STRATEGIES.load("contrast")
    options = strategy.settle({"damping": 1e-8}, name="contrast")
    fast = strategy.per_channel(Coupled(torch.zeros(0), (consumer,), options))
    slow = scoring.eliminate_by_least_squares(inputs, weight, matter)
    assert fast.argsort().tolist() == slow[0]
    assert fast.sort().values.tolist() == pytest.approx(slow[1], rel=1e-3, abs=1e-6)
    assert fast.argsort().tolist()[0] in (0, 3)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("ocap", {"slop": 0.1}, "has no option 'slop'; did you mean slope?"),
        ("ocap", {"slope": "steep"}, "slope is 'steep', expected a number from 0 to 1"),
        ("ocap", {"aggregation": "both"}, "expected union or frequency"),
        ("random", {"p": 2}, "it takes none"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(name, given, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        STRATEGIES.load(name).settle(given, name=name)


def test_a_dead_layer_is_not_scored_and_stays_whole_by_name(narrow, digits):
    with torch.no_grad():
        narrow.module.bn1.weight.zero_()
        narrow.module.bn1.bias.zero_()
    images = digits.train.take(12, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), images, None, 12, 0)
    scores = score.run("taylor", judged)
    assert scores.of("conv1") is None
    ground = Ground(scores, judged.groups, narrow.geometry, None, narrow.geometry.cost())
    plan = planning.draw(ground, Budget(ratio=0.5))
    reasons = {cut.group: cut.whole_because for cut in plan.left_whole()}
    assert reasons == {"conv1": "taylor does not score it"}


@pytest.mark.parametrize("name", ALL)
def test_a_dead_layer_is_worth_nothing_special(name, narrow, digits):
    """Not scored, or its filters alike to what looks at responses; plans are drawn all the same."""
    with torch.no_grad():
        narrow.module.bn1.weight.zero_()
        narrow.module.bn1.bias.zero_()
    images = digits.train.take(12, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), images, None, 12, 0)
    scores = scored(name, narrow, images)
    found = scores.of("conv1")
    if name in SEEING and found is not None:
        assert max(found) - min(found) <= 1e-6
    ground = Ground(scores, judged.groups, narrow.geometry, None, narrow.geometry.cost())
    plan = planning.draw(ground, Budget(ratio=0.5))
    assert plan.realised_ratio > 0.1  # `bn_scale` scores a third of the groups


def test_an_activation_inside_of_a_normalisation_hides_no_response(digits):
    """timm's normalisations end in an activation; a response is what stands in front of it."""

    class Norm(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU(inplace=True)

        def forward(self, maps):
            return self.act(super().forward(maps))

    torch.manual_seed(0)
    parts = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    conv, norm = nn.Conv2d(3, 8, 3), shaken(nn.Sequential(Norm(8)))[0]
    apart = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), *parts)
    apart[1].load_state_dict(norm.state_dict())
    few = digits.train.take(12, seed=0)
    for name in ("ocap", "apoz", "taylor"):
        one, two = (
            list(scored(name, head.cut(wrap(each), digits.classes), few).layers[0].values)
            for each in (nn.Sequential(conv, norm, nn.Identity(), *parts), apart)
        )
        assert one == pytest.approx(two, rel=1e-5, abs=1e-7)


def test_two_images_are_enough(narrow, digits):
    for name in ALL:
        assert scored(name, narrow, digits.train.take(2, seed=0)).layers


def test_weights_that_are_not_finite_are_refused(narrow, digits):
    with torch.no_grad():
        narrow.module.conv1.weight[3] = float("nan")
    with pytest.raises(PlanError, match="layer conv1: the score of filter 3 is nan"):
        scored("ln_norm", narrow, None)


def test_a_high_order_still_tells_small_filters_apart():
    """In single precision 0.05 to the 32nd is nothing: all filters were alike."""
    values = torch.rand(1, 8, 9, 1, generator=torch.Generator().manual_seed(0)) * 0.05
    member = STRATEGIES.load("ln_norm")
    found = member.per_image(Seen(values, torch.Generator(), {"p": 64.0}))
    assert torch.allclose(found[0], values[0].flatten(1).amax(dim=1).double(), rtol=0.1)
    assert len(set(found[0].tolist())) == 8

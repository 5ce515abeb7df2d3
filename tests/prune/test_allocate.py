"""Budgets are kept, from below, monotonically; where to cut follows the harm."""

import contextlib
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from capdeploy import score
from capdeploy.errors import ConfigError, PlanError
from capdeploy.progress import Quiet
from capdeploy.prune import (
    allocate,
    apply,
    groups,
    ledger,
    order,
    sensitivity,
    silence,
    translate,
    votes,
)
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.train import head
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.scores import FilterScores, LayerScores
from capdeploy.zoo import SOURCES
from tests import nets
from tests.conftest import SUBSET, shaken, wrap
from tests.prune.test_groups_and_cut import scores_for


def limit(text, quantity="macs", **rest):
    return Budget(limit=Limit.parse(quantity, text), **rest)


def ground_of(model, scores=None, curves=None):
    narrow = head.cut(model, SUBSET)
    return Ground(
        scores or scores_for(narrow), groups.find(narrow), narrow.geometry,
        head.cut_of(model, SUBSET), model.geometry.cost(), curves or {},
    )  # fmt: skip


def rooms_of(ground, align):
    """Every group of a multiple of 32 channels, its harm as its channels stand."""
    return [
        order.Room(group, align, align, votes.normalised(range(group.width)))
        for group in ground.groups if group.width % 32 == 0
    ]  # fmt: skip


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    made = SOURCES.load("torchvision").build("resnet18", {}, 10)
    model = wrap(shaken(made), "resnet18", 32)
    return model, ground_of(model)


def had(model, plan, quantity):
    if quantity == "size":
        meter = ledger.Meter("size")
        return tuple(meter.whole(each.geometry) for each in (head.cut(model, SUBSET),
                                                             apply.cut(model, plan)))  # fmt: skip
    return tuple(getattr(cost, quantity) for cost in (plan.before, plan.after))


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("quantity", ["macs", "parameters", "size"])
@pytest.mark.parametrize("share", ["80%", "70%", "50%", "12.5%"])
def test_a_limit_is_met_within_two_percent_from_below(resnet, quantity, share, allocation):
    model, ground = resnet
    plan = planning.draw(ground, limit(share, quantity, allocation=allocation))
    before, after = had(model, plan, quantity)
    wanted = float(share[:-1]) / 100 * before
    assert 0.98 * wanted <= after <= wanted
    # Every group is aligned, but for one if the limit lies between two aligned widths.
    assert sum(len(cut.kept) % 8 != 0 for cut in plan.groups) <= 1


def test_the_network_costs_what_the_plan_promises(resnet):
    model, ground = resnet
    plan = planning.draw(ground, limit("40%", allocation="global"))
    assert apply.cut(model, plan).geometry.cost() == plan.after


def test_an_absolute_limit_is_read_with_its_unit(resnet):
    _, ground = resnet
    plan = planning.draw(ground, limit("10M"))
    assert 9.8e6 <= plan.after.macs <= 10e6


@pytest.fixture(scope="module")
def grounds():
    """Networks with shortcuts, a concatenation, convolutions in groups; by name and seed."""
    made = {}

    def ground(name, seed):
        if (name, seed) not in made:
            torch.manual_seed(0)
            model = wrap(getattr(nets, name)())
            made[name, seed] = ground_of(model, scores_for(head.cut(model, SUBSET), seed))
        return made[name, seed]

    return ground


@given(
    low=st.floats(0.12, 0.95), high=st.floats(0.12, 0.95),
    asked=st.sampled_from(["macs", "parameters", "size", "ratio"]),
    allocation=st.sampled_from(["uniform", "global", "repair"]),
    name=st.sampled_from(["Residual", "Chain", "Grouped", "Uneven"]),
    align=st.sampled_from([1, 2, 4]), seed=st.integers(0, 20),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_larger_drop_never_gives_a_channel_back(
    grounds, low, high, asked, allocation, name, align, seed
):
    plans = []
    for share in sorted((low, high)):
        wish = {"limit": Limit(quantity=asked, most=share, share=True)} if asked != "ratio" else {}
        wish = wish or {"ratio": 1 - share}
        budget = Budget(**wish, allocation=allocation, align=align, tolerance=0.9)
        with contextlib.suppress(PlanError):  # below every floor, or nothing aligned to take
            plans.append(planning.draw(grounds(name, seed), budget))
    assume(len(plans) == 2)  # which hypothesis finds often enough, or it fails
    for less, more in zip(plans[0].groups, plans[1].groups, strict=True):
        assert set(less.kept) <= set(more.kept)


@pytest.mark.parametrize("allocation", ["global", "sensitivity", "repair"])
def test_a_ratio_is_the_share_of_all_channels_when_groups_share_it(resnet, allocation):
    _, ground = resnet
    plan = planning.draw(ground, Budget(ratio=0.5, allocation=allocation))
    assert plan.realised_ratio == pytest.approx(0.5, abs=0.01)


def test_a_limit_that_holds_already_takes_nothing(resnet):
    _, ground = resnet
    plan = planning.draw(ground, limit("1G"))
    assert plan.after == plan.before
    assert all(len(cut.kept) == cut.width for cut in plan.groups)


def test_ten_steps_end_within_two_percent_where_one_step_would():
    """Aligned steps are coarse in a small network: an early one must not go below the end."""
    torch.manual_seed(0)
    made = SOURCES.load("cifar_resnet").build("resnet20", {}, 10)
    model = head.cut(wrap(shaken(made), "cifar_resnet:resnet20", 32), SUBSET)
    has, full = model.geometry.cost().macs, model.geometry.cost()
    whole = {group.name: group.width for group in groups.find(model)}
    budget = limit("50%")
    for step in range(1, 11):
        ground = Ground(scores_for(model), groups.find(model), model.geometry, None, full, {})
        part = budget.part(step, 10, has)
        plan = planning.draw(replace(ground, whole=whole), part)
        assert 0.98 * 0.5 * has <= plan.after.macs <= part.limit.most
        model = apply.cut(model, plan)
    assert 0.98 * 0.5 * has <= model.geometry.cost().macs <= 0.5 * has


def test_every_group_keeps_its_floor(resnet):
    _, ground = resnet
    plan = planning.draw(ground, limit("50%", allocation="global", floor=0.5))
    assert all(2 * len(cut.kept) >= cut.width for cut in plan.groups)


def test_a_limit_below_all_floors_is_refused_with_what_blocks_it(resnet):
    _, ground = resnet
    with pytest.raises(PlanError) as caught:
        planning.draw(ground, limit("1%", protect=("layer4*",), floor=0.5))
    message = str(caught.value)
    assert "cannot be met" in message
    assert "floor 0.5" in message
    assert "layer4.0.conv1 (--protect layer4*)" in message
    assert "\n" not in message


def together(*texts, **rest):
    first, *others = (Limit.parse(quantity, text) for quantity, text in texts)
    return Budget(limit=first, also=tuple(others), **rest)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(
    "texts",
    [
        (("macs", "40%"), ("parameters", "90%")),
        (("macs", "80%"), ("parameters", "30%")),
        (("size", "40%"), ("macs", "90%"), ("parameters", "85%")),
    ],
)
def test_limits_that_are_met_together_all_hold_and_one_binds(resnet, texts, allocation):
    model, ground = resnet
    plan = planning.draw(ground, together(*texts, allocation=allocation))
    reached = {}
    for quantity, text in texts:
        before, after = had(model, plan, quantity)
        reached[quantity] = after / (float(text[:-1]) / 100 * before)
    assert max(reached.values()) <= 1
    assert max(reached.values()) >= 0.98
    # What binds alone gives the same network, if the order of cuts is made for it.
    first, text = texts[0]
    if reached[first] >= 0.98:
        alone = planning.draw(ground, limit(text, first, allocation=allocation))
        assert alone.layers == plan.layers


def test_one_of_several_limits_that_cannot_be_met_is_named(resnet):
    _model, ground = resnet
    with pytest.raises(PlanError, match=r"parameters cannot be met: .* remain"):
        planning.draw(ground, together(("macs", "90%"), ("parameters", "1%"), floor=0.5))


def test_limits_of_one_thing_or_with_a_ratio_are_no_budget():
    with pytest.raises(ValidationError, match="limits that are met together are of different"):
        together(("macs", "50%"), ("macs", "60%"))
    with pytest.raises(ValidationError, match="limits that are met together are of different"):
        together(("macs", "50%"), ("latency", "60%"))
    with pytest.raises(ValidationError, match="a ratio and limits cannot be met together"):
        Budget(ratio=0.5, also=(Limit.parse("macs", "50%"),))
    assert together(("latency", "3ms"), ("size", "2M")).name == "latency-3ms-and-size-2M"


def test_a_limit_between_two_channels_is_refused_and_says_how_to_get_it(chain):
    with pytest.raises(PlanError, match="raise --tolerance"):
        planning.draw(ground_of(chain), limit("93%", tolerance=1e-6))
    plan = planning.draw(ground_of(chain), limit("93%", tolerance=0.5))
    assert plan.after.macs <= 0.93 * plan.before.macs


def alike(model, values):
    """The same scores for every layer, scaled per layer as relevance is: to a sum of one."""
    narrow = head.cut(model, SUBSET)
    layers = []
    for entry in scores_for(narrow).layers:
        scores = values(len(entry.values))
        layers.append(LayerScores(layer=entry.layer, values=tuple(scores)))
    return FilterScores(strategy="x", layers=tuple(layers), images=0, seed=0)


def test_wide_layers_do_not_go_first_because_their_scores_sum_to_one(resnet):
    """Relevance is conserved, so a filter's share is 1/C: raw scores would empty wide layers."""
    model, _ = resnet
    scores = alike(model, lambda width: [2 * (n + 1) / (width * (width + 1)) for n in range(width)])
    budget = Budget(ratio=0.5, allocation="global", align=1)
    plan = planning.draw(ground_of(model, scores), budget)
    shares = [len(cut.kept) / cut.width for cut in plan.groups]
    assert max(shares) - min(shares) < 0.05
    raw = sorted(
        (value, cut.width) for cut in plan.groups for value in (scores.of(cut.group) or ())
    )
    gone_raw = [width for _, width in raw[: len(raw) // 2]]
    assert gone_raw.count(512) > 3 * gone_raw.count(64)  # the trap is real


def test_global_cuts_where_the_harm_is_least(residual):
    narrow = head.cut(residual, SUBSET)
    base = scores_for(narrow)
    # In one group half of the filters are worthless; elsewhere all are worth the same.
    layers = [
        entry.model_copy(update={"values": tuple(
            (0.0 if entry.layer == "conv1" and n < 8 else 1.0) for n in range(len(entry.values))
        )})
        for entry in base.layers
    ]  # fmt: skip
    ground = ground_of(residual, base.model_copy(update={"layers": tuple(layers)}))
    plan = planning.draw(ground, Budget(ratio=0.1, allocation="global", align=1))
    widths = {cut.group: cut.width - len(cut.kept) for cut in plan.groups}
    assert widths["conv1"] == sum(widths.values()) == 8
    assert next(cut for cut in plan.groups if cut.group == "conv1").kept == tuple(range(8, 16))


def test_a_ratio_is_met_where_its_decimals_are_not_those_of_the_machine(residual):
    """Four fifths of 80 leave 16, though 80 * (1 - 0.8) is 15.999999999999996."""
    ground = ground_of(residual)
    channels = sum(cut.width * cut.unit for cut in planning.draw(ground, Budget(ratio=0)).groups)
    for fifths in range(1, 5):
        plan = planning.draw(ground, Budget(ratio=fifths / 5, allocation="global", align=1))
        left = sum(len(cut.kept) * cut.unit for cut in plan.groups)
        assert left == math.floor(channels * (5 - fifths) / 5)


def test_what_went_with_a_block_still_counts_in_later_steps(residual):
    ground = ground_of(residual)
    ground = replace(ground, whole={group.name: group.width for group in ground.groups})
    channels = sum(cut.width * cut.unit for cut in planning.draw(ground, Budget(ratio=0)).groups)
    budget = Budget(ratio=0.5, allocation="global", align=1)
    for gone in (0, channels // 2, channels):
        plan = planning.draw(replace(ground, gone=gone), budget)
        left = sum(len(cut.kept) * cut.unit for cut in plan.groups)
        assert left == (channels + gone) // 2


def test_cumulative_scores_are_taken_as_they_are(residual):
    narrow = head.cut(residual, SUBSET)
    layers = [
        entry.model_copy(update={"values": tuple(
            (n + 1) * (1e-6 if entry.layer == "conv1" else 1.0) for n in range(len(entry.values))
        )})
        for entry in scores_for(narrow).layers
    ]  # fmt: skip
    scores = FilterScores(
        strategy="x", layers=tuple(layers), images=1, seed=0, across="max", cumulative=True
    )
    plan = planning.draw(
        ground_of(residual, scores), Budget(ratio=0.15, allocation="global", align=1)
    )
    widths = {cut.group: cut.width - len(cut.kept) for cut in plan.groups}
    assert widths["conv1"] == max(widths.values()) >= 12


def test_sensitivity_measures_and_remembers(residual, digits, tmp_path):
    narrow = head.cut(residual, SUBSET)
    found, images = groups.find(narrow), digits.train.take(24, seed=0)
    scores = score.run("ln_norm", score.Judged(narrow, found, images, None, 8, 0))
    arguments = {"batch_size": 8, "cache": tmp_path, "say": Quiet()}
    curves = sensitivity.curves(narrow, found, scores, images, **arguments)
    assert set(curves) == {group.name for group in found}
    for group in found:
        curve = curves[group.name]
        assert len(curve) == group.width + 1
        assert curve[0] == 0
        assert list(curve) == sorted(curve)
    assert len(list(tmp_path.iterdir())) == 1

    again = sensitivity.curves(narrow, found, scores, images, **arguments)
    assert again == curves
    assert len(list(tmp_path.iterdir())) == 1
    # What is kept is believed, what is damaged measured anew.
    [file] = tmp_path.iterdir()
    other = {name: (0.0, *curve[:-1]) for name, curve in curves.items()}
    file.write_text(json.dumps(other))
    assert sensitivity.curves(narrow, found, scores, images, **arguments) == other
    for damaged in ('{"ms": 1}', "[1]", json.dumps({name: [0.0] for name in curves})):
        file.write_text(damaged)
        assert sensitivity.curves(narrow, found, scores, images, **arguments) == curves
    # The same weights in other code are another network.
    other = narrow.with_module(narrow.copy_module())
    other.module.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert sensitivity.curves(other, found, scores, images, **arguments) != curves
    # One group, half of it silent: the divergence is the one that the definition gives.
    group = next(group for group in found if group.name == "conv1")
    lowest = sorted(range(16), key=votes.group_scores(group, scores).__getitem__)[:8]
    batch, _ = next(images.batches(24))
    whole = narrow.module(batch).log_softmax(1).detach()
    with silence.silenced(narrow.module, [(group, lowest)]):
        less = narrow.module(batch).log_softmax(1).detach()
    expected = float((whole.exp() * (whole - less)).sum() / 24)
    assert curves["conv1"][8] == pytest.approx(expected, rel=1e-3)
    assert torch.equal(narrow.module(batch).log_softmax(1), whole)


def test_a_network_without_prunable_groups_is_refused():
    class OnlyAHead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 10)

        def forward(self, images):
            return self.head(images.mean(dim=(2, 3)))

    model = wrap(OnlyAHead())
    narrow = head.cut(model, SUBSET)
    with pytest.raises(PlanError, match="nothing to score"):
        score.run("ln_norm", score.Judged(narrow, groups.find(narrow), None, None, 8, 0))


@pytest.mark.parametrize("text", ["half", "-3", "150%", "3TB", "", "0"])
def test_a_limit_that_makes_no_sense_is_refused(text):
    with pytest.raises((ValueError, ConfigError, ValidationError)):
        Limit.parse("macs", text)


def test_names_of_budgets():
    assert Budget(ratio=0.75).name == "ratio-0.75"
    assert limit("50%").name == "macs-50pct"
    assert limit("2.5MiB", "size").name == "size-2.621M"
    assert limit("150k", "parameters").name == "parameters-150k"
    assert limit("900KiB", "size").limit.most == limit("900kiB", "size").limit.most == 900 * 1024
    with pytest.raises(ValidationError, match="either a ratio or a limit"):
        Budget()


@pytest.mark.parametrize("even", [False, True])
def test_steps_that_go_too_far_are_passed_over_for_smaller_ones(resnet, even):
    """What is only estimated is aimed at with aligned widths; nearer, and never above."""
    _, ground = resnet
    whole = ground.geometry.cost().macs
    rooms = rooms_of(ground, 32)
    gaps = {0: [], 8: []}
    for share in (0.9, 0.7, 0.5, 0.3, 0.2):
        cap = allocate.Cap(ledger.Meter("macs"), share * whole, 0.005)
        for passes, found in gaps.items():
            keep, left = allocate.meet(ground.geometry, rooms, [cap], even=even, passes=passes)
            assert cap.holds(left[0])
            assert all(kept % 32 == 0 for kept in keep.values())
            found.append(1 - left[0] / cap.most)
    assert all(some <= none for some, none in zip(gaps[8], gaps[0], strict=True))
    assert max(gaps[8]) < 0.01 < max(gaps[0])


@pytest.mark.parametrize("even", [False, True])
def test_what_a_held_group_gives_up_the_others_keep(resnet, even):
    _, ground = resnet
    rooms = rooms_of(ground, 8)
    cap = allocate.Cap(ledger.Meter("macs"), 0.6 * ground.geometry.cost().macs, 0.02)
    before, _ = allocate.meet(ground.geometry, rooms, [cap], even=even)
    name = max(before, key=before.__getitem__)
    held = [
        replace(room, most=before[name] // 16 * 8) if room.group.name == name else room
        for room in rooms
    ]
    after, left = allocate.meet(ground.geometry, held, [cap], even=even)
    assert cap.near(left[0])
    assert after[name] <= before[name] // 16 * 8
    assert all(after[other] >= before[other] for other in before if other != name)
    assert sum(after.values()) - after[name] > sum(before.values()) - before[name]


@pytest.mark.parametrize("passes", [None, 8])
def test_a_held_group_stays_held_where_that_alone_meets_the_limit(resnet, passes):
    """The step leads far below the limit, and is none that may be passed over or cut short."""
    _, ground = resnet
    rooms = rooms_of(ground, 8)
    cap = allocate.Cap(ledger.Meter("macs"), 0.99 * ground.geometry.cost().macs, 0.001)
    widest = max(rooms, key=lambda room: room.group.width)
    held = [replace(room, most=8) if room is widest else room for room in rooms]
    keep, left = allocate.meet(ground.geometry, held, [cap], even=False, passes=passes)
    assert keep == {room.group.name: 8 if room is widest else room.group.width for room in rooms}
    assert left[0] < 0.98 * cap.most


def uneven(dear_first):
    """A network half of whose channels are dear, and scores by which these go first or last."""
    torch.manual_seed(0)
    model = wrap(nets.Uneven(), "tests.nets:Uneven")
    names = head.cut(model, SUBSET).trace.filters
    low, high = range(1, 17), range(17, 33)
    values = {
        "cheap": high if dear_first else low, "dear": low if dear_first else high,
        "stem": (*high, *low) if dear_first else (*low, *high), "last": range(1, 33),
    }  # fmt: skip
    scores = FilterScores(
        strategy="test", images=0, seed=0,
        layers=tuple(
            LayerScores(layer=name, values=tuple(map(float, values[name])))
            for name in names if name != "head"
        ),
    )  # fmt: skip
    return head.cut(model, SUBSET), ground_of(model, scores)


@pytest.mark.parametrize("dear_first", [True, False])
@pytest.mark.parametrize("quantity", ["macs", "parameters", "size"])
def test_a_limit_is_met_where_channels_of_a_group_cost_unlike(quantity, dear_first):
    """On average they look alike: what goes first saves more than that, or less."""
    narrow, ground = uneven(dear_first)
    whole, kept, met = ground.meter(quantity).whole(narrow.geometry), [], 0
    for percent in range(95, 35, -5):
        budget = Budget(
            limit=Limit.parse(quantity, f"{percent}%"), allocation="uniform", align=1,
            tolerance=0.08,
        )  # fmt: skip
        try:
            plan = planning.draw(ground, budget)
        except PlanError:  # refused: a channel weighs more than the tolerance
            continue
        assert plan.budget == budget
        size = ground.meter("size").whole(
            narrow.geometry, translate.widths(plan.layers, narrow.geometry)
        )
        left = size if quantity == "size" else getattr(plan.after, quantity)
        assert 0.92 * budget.limit.most * whole <= left <= budget.limit.most * whole * (1 + 1e-9)
        met += 1
        kept.append({cut.group: set(cut.kept) for cut in plan.groups})
    assert met >= 11
    for looser, tighter in itertools.pairwise(kept):
        assert all(tighter[name] <= looser[name] for name in looser)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_ties_everywhere_change_no_budget(resnet, allocation, share):
    """Where every filter is worth the same, as many go as were asked for, always the same ones."""
    model, ground = resnet
    alike = ground.scores.model_copy(
        update={
            "layers": tuple(
                LayerScores(layer=each.layer, values=(1.0,) * len(each.values))
                for each in ground.scores.layers
            )
        }
    )
    tied = ground_of(model, alike)
    first, second = (
        planning.draw(tied, limit(f"{share:.0%}", allocation=allocation)) for _ in range(2)
    )
    before, after = had(model, first, "macs")
    assert 0.98 * share * before <= after <= share * before
    assert first == second


@pytest.mark.parametrize("pattern", ["layer9", "stage*", "conv1 "])
def test_a_pattern_that_protects_nothing_is_refused(resnet, pattern):
    _, ground = resnet
    with pytest.raises(
        ConfigError, match=r"--protect .* is the name of no layer; .*pattern such as"
    ):
        planning.draw(ground, Budget(ratio=0.5, protect=(pattern,)))
    assert planning.draw(ground, Budget(ratio=0.5, protect=("layer4*",))).after.macs


class Normed(nn.Module):
    """Divides by the size of its features, which is nothing once all of a group are gone."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, images):
        maps = torch.relu(self.conv(images)).mean(dim=(2, 3))
        return self.head(maps / maps.norm(dim=1, keepdim=True))


def test_answers_that_are_no_numbers_are_not_harmless(digits, tmp_path):
    torch.manual_seed(0)
    narrow = head.cut(wrap(Normed().eval()), SUBSET)
    found, images = groups.find(narrow), digits.train.take(8, seed=0)
    scores = score.run("ln_norm", score.Judged(narrow, found, images, None, 8, 0))
    shown = {"batch_size": 8, "cache": tmp_path, "say": Quiet()}
    curve = sensitivity.curves(narrow, found, scores, images, **shown)["conv"]
    assert all(map(math.isfinite, curve))
    assert curve[4] > 1.1 * curve[3] > 0
    with torch.no_grad():
        narrow.module.head.weight[0] = float("nan")
    with pytest.raises(PlanError, match="group conv: without a few of its channels the network's"):
        sensitivity.curves(narrow, found, scores, images, **shown)

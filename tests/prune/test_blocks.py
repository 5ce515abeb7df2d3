"""Residual blocks that go whole: found by experiment, priced like everything else."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capdeploy import rebuild
from capdeploy.errors import ArchitectureError, ConfigError, PlanError
from capdeploy.prune import apply, blocks, groups, widths
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.train import head
from capdeploy.train.imitate import kept_channels
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.group import Block
from capdeploy.values.plan import GroupCut, PruningPlan
from capdeploy.values.scores import FilterScores, LayerScores
from capdeploy.zoo import SOURCES
from tests import nets
from tests.conftest import SUBSET, shaken, wrap
from tests.prune.test_groups_and_cut import scores_for


def model_of(name, size=64):
    torch.manual_seed(0)
    kind = {"init_weights": False} if name == "googlenet" else {}
    return wrap(SOURCES.load("torchvision").build(name, kind, 10).eval(), name, size)


@pytest.mark.parametrize(
    ("name", "count", "first", "left"),
    [
        ("resnet18", 5, "layer1.0", "relu"),
        ("resnet50", 12, "layer1.1", "relu"),
        ("mobilenet_v2", 10, "features.3", "identity"),
        ("efficientnet_b0", 9, "features.2.1", "identity"),
        ("regnet_y_400mf", 12, "trunk_output.block2.block2-1", "relu"),
        ("convnext_tiny", 18, "features.1.0", "identity"),
        ("mnasnet1_0", 10, "layers.8.1", "identity"),
        ("densenet121", 0, None, None),
        ("vgg11_bn", 0, None, None),
        ("googlenet", 0, None, None),
        ("shufflenet_v2_x1_0", 0, None, None),
    ],
)
def test_the_blocks_of_known_networks_are_found(name, count, first, left):
    found = blocks.find(model_of(name))
    assert len(found) == count
    assert not found or (found[0].name, found[0].becomes) == (first, left)


@pytest.mark.parametrize(("name", "expected"), [("resnet20", 7), ("resnet56", 25)])
def test_padded_shortcuts_are_no_way_around_and_identities_are(name, expected):
    made = SOURCES.load("cifar_resnet").build(name, {}, 10)
    found = blocks.find(wrap(made, name, 32))
    assert len(found) == expected  # all but the first of the two later stages


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks()), "tests.nets:Blocks")
    narrow = head.cut(model, SUBSET)
    return model, narrow, ground_of(model, narrow, scores_for(narrow))


def ground_of(model, narrow, scores):
    return Ground(
        scores, groups.find(narrow), narrow.geometry, head.cut_of(model, SUBSET),
        model.geometry.cost(), blocks=blocks.find(narrow),
    )  # fmt: skip


def weak(narrow, layers, factor):
    """Scores as they are, those of some layers' filters far below."""
    plain = scores_for(narrow)
    values = tuple(
        LayerScores(
            layer=each.layer,
            values=tuple(v * factor if each.layer in layers else v for v in each.values),
        )
        for each in plain.layers
    )
    return FilterScores(
        strategy="random", layers=values, images=0, seed=0, cumulative=plain.cumulative
    )


def budget(text, quantity="macs", **rest):
    # What the blocks add to stays as it is, and no branch can lose more than half of its filters,
    # so that below half of the network whole blocks have to go.
    wanted = {
        "depth": "prune", "allocation": "global", "align": 16, "tolerance": 1.0,
        "protect": ("stem",),
    }  # fmt: skip
    return Budget(limit=Limit.parse(quantity, text), **(wanted | rest))


def test_what_is_left_answers_as_the_network_whose_branch_says_nothing(rows):
    model, _, ground = rows
    plan = planning.draw(ground, budget("30%"))
    assert plan.removed
    cut = apply.cut(model, plan)  # raises unless it costs what the plan promised
    silent = model.copy_module()
    for block in plan.removed:
        for weight in silent.get_submodule(block.name).parameters():
            weight.data.zero_()
        for value in silent.get_submodule(block.name).buffers():
            value.zero_()
    rebuild.narrow(silent, plan.layers)
    with torch.no_grad():
        assert torch.equal(cut.module(model.example()), silent.eval()(model.example()))
    assert not any(block.name in name for block in plan.removed for name in cut.trace.filters)


@given(share=st.integers(6, 95), quantity=st.sampled_from(["macs", "parameters", "size"]))
@settings(max_examples=30, deadline=None)
def test_costs_are_kept_and_a_smaller_budget_removes_a_superset(rows, share, quantity):
    model, _, ground = rows
    rest = {"align": 2, "protect": ()}
    wanted = [budget(f"{each}%", quantity, **rest) for each in (share, share + 4)]
    less, more = (planning.draw(ground, each) for each in wanted)
    apply.cut(model, less)
    gone, fewer = ({block.name for block in plan.removed} for plan in (less, more))
    assert gone >= fewer
    for small, large in zip(less.groups, more.groups, strict=True):
        assert set(small.kept) <= set(large.kept)
    before, after = less.before.parameters, less.after.parameters
    assert quantity != "parameters" or after <= share / 100 * before


@pytest.mark.parametrize("share", range(20, 60, 4))
def test_a_block_that_would_go_too_far_stays(rows, share):
    """A limit that is met by channels alone is met with blocks as well, as near."""
    _, _, ground = rows
    wanted = {"align": 1, "tolerance": 0.06}  # one channel is a hundredth of this network
    plan = planning.draw(ground, budget(f"{share}%", **wanted))
    assert 0.94 * share <= 100 * plan.after.macs / plan.before.macs <= share


@pytest.mark.parametrize("quantity", ["macs", "parameters", "size"])
def test_parameters_of_no_layer_go_with_their_block(quantity):
    """ConvNeXt's blocks hold layer norms and layer scales that no layer of the plan has."""
    model = model_of("convnext_tiny")
    narrow = head.cut(model, SUBSET)
    ground = ground_of(model, narrow, scores_for(narrow))
    plan = planning.draw(ground, budget("30%", quantity, align=8, protect=()))
    assert plan.removed
    assert all(block.other_parameters > 0 for block in plan.removed)
    apply.cut(model, plan)  # raises unless it costs what the plan promised


def test_blocks_go_as_the_order_of_cuts_has_it(rows):
    _, _, ground = rows
    counts = [len(planning.draw(ground, budget(f"{share}%")).removed) for share in (90, 45, 20, 4)]
    assert all(a <= b for a, b in pairwise(counts))
    assert counts[0] == 0
    assert counts[-1] == 3


@pytest.mark.parametrize("share", range(15, 60, 3))
def test_where_a_block_is_too_much_at_the_end_it_goes_first(share):
    """Just below what all floors leave, a block has to go, and channels may stay for it."""
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks(width=32)), "tests.nets:Blocks")
    narrow = head.cut(model, SUBSET)
    ground = ground_of(model, narrow, scores_for(narrow))
    plan = planning.draw(ground, budget(f"{share}%", tolerance=0.05))
    assert 0.95 <= plan.after.macs / (share / 100 * plan.before.macs) <= 1
    apply.cut(model, plan)  # raises unless it costs what the plan promised


def test_a_block_of_worthless_filters_goes_first(rows):
    """Cumulative scores compare across layers, so a block of low ones harms least."""
    model, narrow, _ = rows
    low = ("stage.1.conv1", "stage.1.conv2")
    scores = weak(narrow, low, 1e-4).model_copy(update={"cumulative": True, "across": "max"})
    plan = planning.draw(ground_of(model, narrow, scores), budget("70%"))
    assert [block.name for block in plan.removed] == ["stage.1"]
    (cut,) = [cut for cut in plan.groups if cut.group == "stage.1.conv1"]
    assert cut.kept == ()
    assert cut.macs_left == 0
    assert all(len(each.kept) == each.width for each in plan.groups if each is not cut)
    assert plan.realised_ratio == cut.width / sum(each.width for each in plan.groups)


@pytest.mark.parametrize(
    ("rest", "may_go"),
    [
        ({}, {"stage.0", "stage.1", "stage.2"}),
        ({"protect": ("stem", "stage.1.bn2")}, {"stage.0", "stage.2"}),
        ({"skip_first": 2}, {"stage.1", "stage.2"}),
    ],
)
def test_blocks_with_a_layer_that_has_to_stay_stay(rows, rest, may_go):
    _, _, ground = rows
    least = planning.draw(ground, budget("40%", **rest))
    assert least.removed
    assert {block.name for block in least.removed} <= may_go


@pytest.mark.parametrize("rest", [{"depth": "keep"}, {"floor": 0.05}])
def test_no_block_goes_unasked_or_where_every_group_keeps_a_share(rows, rest):
    _, _, ground = rows
    with pytest.raises(PlanError, match="cannot be met"):
        planning.draw(ground, budget("40%", **rest))
    assert planning.draw(ground, budget("60%", **rest)).removed == ()


def test_even_shares_and_removed_blocks_exclude_each_other():
    with pytest.raises(ConfigError, match="take repair, global, sensitivity or latency"):
        Budget.from_plain({"ratio": 0.5, "depth": "prune"}, source="budget")
    assert Budget(ratio=0.0, depth="prune").cuts is False  # the baseline is drawn by any recipe


def test_a_plan_says_what_is_removed_and_refuses_nonsense(rows):
    _, _, ground = rows
    plan = planning.draw(ground, budget("30%"))
    assert PruningPlan.from_json(plan.to_json(), source="plan") == plan
    plain = plan.model_dump(mode="json")
    both = plan.removed[0].layers[0]
    with pytest.raises(ConfigError, match=f"layer {both} is cut, and removed with its block"):
        PruningPlan.from_plain(
            plain | {"layers": [*plain["layers"], {"layer": both, "kept_out": [0]}]}, source="plan"
        )
    with pytest.raises(ConfigError, match="would lose every channel, its block stays"):
        PruningPlan.from_plain(plain | {"removed": []}, source="plan")


def test_a_plan_for_another_network_names_the_block(rows, chain):
    _, _, ground = rows
    plan = planning.draw(ground, budget("30%"))
    with pytest.raises(ArchitectureError, match="the network has no block stage"):
        apply.cut(chain, plan)


def test_whole_shortcuts_keep_their_blocks(rows):
    _, _, ground = rows
    assert planning.draw(ground, budget("45%")).removed
    asked = budget("80%").model_copy(update={"residual": "keep"})
    assert not planning.draw(ground, asked).removed
    assert not widths._sites(ground, asked, ground.groups)


def test_two_plans_in_a_row_are_one(rows):
    """What a first plan removes, a later one cannot see; together they say all of it."""
    model, _, ground = rows
    first = planning.draw(ground, budget("45%"))
    once = apply.cut(model, first)
    narrow = once
    later_ground = Ground(
        scores_for(narrow, 1), groups.find(narrow), narrow.geometry, None, first.full,
        blocks=blocks.find(narrow),
    )  # fmt: skip
    second = planning.draw(later_ground, budget("50%"))
    both = first.then(second)
    assert {b.name for b in both.removed} == {b.name for b in (*first.removed, *second.removed)}
    assert [cut.group for cut in both.groups] == [cut.group for cut in first.groups]
    twice, direct = apply.cut(once, second), apply.cut(model, both)
    with torch.no_grad():
        assert torch.equal(twice.module(model.example()), direct.module(model.example()))


def test_the_teacher_s_channels_of_removed_layers_are_not_compared(rows):
    _, narrow, ground = rows
    plan = planning.draw(ground, budget("30%"))
    gone = {layer for block in plan.removed for layer in block.layers}
    assert gone
    assert not gone & set(kept_channels(narrow, plan))


def test_nouns_refuse_a_group_that_is_nowhere():
    cut = GroupCut(group="a", members=("a:out",), width=4, kept=())
    assert cut.kept == ()
    with pytest.raises(ConfigError, match="layers"):
        Block.from_plain({"name": "a", "becomes": "relu", "layers": []}, source="block")

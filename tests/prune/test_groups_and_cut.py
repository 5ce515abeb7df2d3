"""Groups, plans and the knife: what is cut is what was planned, and nothing else changes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capdeploy import rebuild
from capdeploy.errors import ArchitectureError, PlanError
from capdeploy.prune import apply, groups, sound, votes, widths
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.train import head
from capdeploy.values.budget import Budget
from capdeploy.values.checkpoint import Architecture
from capdeploy.values.plan import LayerCut, PruningPlan
from capdeploy.values.scores import FilterScores, LayerScores
from tests import nets
from tests.conftest import SUBSET, shaken, wrap

NETWORKS = {
    "resnet18": 0.6, "vgg11_bn": 0.6, "mobilenet_v2": 0.6, "densenet121": 0.6,
    "squeezenet1_1": 0.6, "googlenet": 0.6, "resnet50": 0.6, "mobilenet_v3_small": 0.6,
    "efficientnet_b0": 0.6, "regnet_y_400mf": 0.6, "mnasnet0_5": 0.6, "resnext50_32x4d": 0.6,
    # What only partly can be cut: shuffles, layer scales, padded shortcuts.
    "shufflenet_v2_x0_5": 0.9, "convnext_tiny": 0.6, "cifar_resnet:resnet20": 0.6,
    "cifar_resnet:resnet56": 0.6, "vgg16_bn": 0.6, "mobilenet_v3_large": 0.6,
}  # fmt: skip
SMALL = {"resnet18", "vgg11_bn", "mobilenet_v2", "cifar_resnet:resnet20"}


def scores_for(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for name in model.trace.filters:
        layer = model.module.get_submodule(name)
        width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        layers.append(
            LayerScores(layer=name, values=tuple(torch.rand(width, generator=generator).tolist()))
        )
    return FilterScores(strategy="random", layers=tuple(layers), images=0, seed=seed)


def draw(model, ratio, *, subset=SUBSET, seed=0, **budget):
    narrow = head.cut(model, subset)
    found = groups.find(narrow)
    cost = model.geometry.cost()
    ground = Ground(
        scores_for(narrow, seed), found, narrow.geometry, head.cut_of(model, subset), cost
    )
    return narrow, planning.draw(ground, Budget(ratio=ratio, **budget))


def silence(network, plan, narrow):
    """Zero every removed channel of the head-cut network, where it is made."""
    for group, cut in zip(groups.find(narrow), plan.groups, strict=True):
        gone = set(range(cut.width)) - set(cut.kept)
        for member in group.members:
            if member.side != "out":
                continue
            layer = network.get_submodule(member.layer)
            for channel in gone:
                for position in member.positions[channel]:
                    for value in (layer.weight, layer.bias):
                        if value is not None:
                            value.data[position] = 0.0
    return network


@pytest.mark.parametrize("make", [nets.Chain, nets.Residual, nets.ConvHead])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_cutting_equals_silencing(make, ratio):
    """A network without some channels answers as one in which they are zero (with ReLU)."""
    torch.manual_seed(0)
    model = wrap(shaken(make()))
    narrow, plan = draw(model, ratio, align=4)
    cut = apply.cut(model, plan)
    silent = silence(copy.deepcopy(narrow.module), plan, narrow)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(cut.module(images), silent(images), atol=1e-5)


@pytest.mark.parametrize(("name", "left"), NETWORKS.items())
def test_networks_are_cut_consistently(name, left):
    """Cut to half, a network answers as the intact one with the same channels at zero."""
    torch.manual_seed(0)
    arguments = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    kind = Architecture.parse(name).model_copy(update={"arguments": arguments})
    size = 32 if name in SMALL else 64
    model = wrap(shaken(rebuild.build(kind, 10)), name, size)
    narrow, plan = draw(model, 0.5)
    cut = apply.cut(model, plan)
    silent = silence(copy.deepcopy(narrow.module), plan, narrow)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found, expected = cut.module(images), silent(images)
    assert torch.allclose(found, expected, atol=1e-3 * max(1.0, float(expected.abs().max())))
    assert plan.after.macs < left * plan.before.macs


def test_a_padded_shortcut_is_left_whole_by_name():
    model = wrap(shaken(rebuild.build(Architecture.parse("cifar_resnet:resnet20"), 10)), size=32)
    found = groups.find(model)
    blocked = {group.name: group.obstacle for group in found if group.obstacle}
    assert set(blocked) == {"conv1"}  # the residual stream, padded where it widens
    assert "padded or shuffled shortcut" in blocked["conv1"]
    assert len(found) == 10  # the inside of each of the nine blocks is free


def test_groups_that_are_sound_alone_but_not_together_are_told_apart(residual, monkeypatch):
    """No real network is known to do it, so whether a set is sound is made up here."""
    found = [each for each in groups.find(residual) if each.obstacle is None]
    one, other = found[0].name, found[-1].name

    def alike(model, tried, images):
        return not {one, other} <= {group.name for group in tried}

    monkeypatch.setattr(sound, "_alike", alike)
    checked = sound.checked(residual, found)
    assert [each.name for each in checked if each.obstacle == sound.REASON] == [other]


def test_the_largest_of_several_filters_speaks_for_a_channel_by_maximum():
    """A group of a grouped convolution is one channel: a filter loud for one class counts."""
    torch.manual_seed(0)
    model = wrap(nets.Grouped(), "tests.nets:Grouped")
    scores = scores_for(model)
    group = next(each for each in groups.find(model) if each.unit > 1)
    found = votes.group_scores(group, scores.model_copy(update={"across": "max"}))
    makers = [each for each in group.members if each.side == "out" and scores.of(each.layer)]
    assert max(len(places) for each in makers for places in each.positions) > 1
    assert found == [
        max(scores.of(each.layer)[place] for each in makers for place in each.positions[channel])
        for channel in range(group.width)
    ]


def test_a_shuffle_is_left_whole_by_name_and_the_rest_is_cut():
    model = wrap(shaken(rebuild.build(Architecture.parse("shufflenet_v2_x0_5"), 10)), size=64)
    free = [group.name for group in groups.find(model) if group.obstacle is None]
    assert "stage2.1.branch2.0" in free
    assert "stage2.0.branch1.2" not in free


def test_a_grouped_convolution_loses_whole_groups():
    torch.manual_seed(0)
    model = wrap(shaken(nets.Grouped()), "tests.nets:Grouped")
    narrow, plan = draw(model, 0.5)
    tied = next(cut for cut in plan.groups if cut.group == "stem")
    assert (tied.width, tied.unit, len(tied.kept)) == (2, 8, 1)
    assert plan.realised_ratio == pytest.approx(0.5)
    cut = apply.cut(model, plan)
    layer = cut.module.grouped
    assert (layer.in_channels, layer.out_channels, layer.groups) == (8, 8, 1)
    assert layer.weight.shape == (8, 8, 3, 3)
    silent = silence(copy.deepcopy(narrow.module), plan, narrow)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(cut.module(images), silent(images), atol=1e-5)


def test_half_a_convolution_group_cannot_go():
    model = wrap(nets.Grouped(), "tests.nets:Grouped")
    half = LayerCut(layer="grouped", kept_out=tuple(range(4)), kept_in=tuple(range(8)))
    with pytest.raises(ArchitectureError, match="can only lose whole groups"):
        rebuild.narrow(model.copy_module(), [half])


def test_mac_and_parameter_counts_are_the_known_ones():
    made = rebuild.build(Architecture(source="torchvision", name="resnet18"), 1000)
    cost = wrap(made, "resnet18", 224).geometry.cost()
    assert cost.parameters == 11_689_512  # torchvision's own figure
    assert cost.macs == 1_814_073_344  # convolutions and the linear layer alone


def test_groups_of_resnet18_are_those_of_depgraph():
    made = rebuild.build(Architecture(source="torchvision", name="resnet18"), 10)
    found = groups.find(wrap(made, "resnet18", 32))
    assert len(found) == 12  # 8 inner convolutions and 4 residual streams; the head is left out
    stream = found[0]
    assert stream.name == "conv1"
    assert stream.residual
    assert set(stream.makers) == {"conv1", "layer1.0.conv2", "layer1.1.conv2"}
    assert not next(group for group in found if group.name == "layer1.0.conv1").residual


def test_finding_groups_leaves_no_trace(residual):
    residual.module.train()
    next(residual.module.parameters()).requires_grad_(False)
    before = copy.deepcopy(residual.module.state_dict())
    groups.find(residual)
    assert residual.module.training
    assert not next(residual.module.parameters()).requires_grad
    assert all(p.grad is None for p in residual.module.parameters())
    after = residual.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_frozen_layers_are_still_found(residual):
    for parameter in residual.module.parameters():
        parameter.requires_grad_(False)
    assert len(groups.find(residual)) == 4


@given(ratio=st.floats(0, 0.99), width=st.integers(1, 600), align=st.integers(1, 64))
def test_width_is_aligned_and_in_range(ratio, width, align):
    kept = widths.width_kept(width, ratio, align)
    assert 1 <= kept <= width
    assert kept == width or kept % align == 0
    assert kept >= min(width, align)


@given(
    low=st.floats(0, 0.99), high=st.floats(0, 0.99), width=st.integers(1, 600),
    align=st.integers(1, 64),
)  # fmt: skip
def test_width_never_rises_with_the_ratio(low, high, width, align):
    low, high = sorted((low, high))
    assert widths.width_kept(width, high, align) <= widths.width_kept(width, low, align)


@given(low=st.floats(0.1, 0.95), high=st.floats(0.1, 0.95), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_a_larger_drop_never_gives_a_channel_back(low, high, seed):
    low, high = sorted((low, high))
    torch.manual_seed(0)
    narrow = head.cut(wrap(nets.Residual()), SUBSET)
    found, scores = groups.find(narrow), scores_for(narrow, seed)
    ground = Ground(scores, found, narrow.geometry, None, narrow.geometry.cost())
    large, small = (planning.draw(ground, Budget(ratio=ratio, align=2)) for ratio in (low, high))
    for more, less in zip(large.groups, small.groups, strict=True):
        assert set(less.kept) <= set(more.kept)
        assert less.kept


def test_plan_is_pure_and_names_what_it_leaves_whole(residual):
    _, plan = draw(residual, 0.5, residual="keep", protect=("expand",), align=4)
    reasons = {cut.group: cut.whole_because for cut in plan.groups}
    assert reasons["stem"].startswith("--residual keep")
    assert reasons["expand"] == "--protect expand"
    assert reasons["conv1"] is None
    assert {cut.group for cut in plan.left_whole()} == {"stem", "expand"}
    _, again = draw(residual, 0.5, residual="keep", protect=("expand",), align=4)
    assert plan == again
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_skip_first_counts_convolutions_in_execution_order(residual):
    _, plan = draw(residual, 0.5, skip_first=2, align=4)
    whole = {cut.group for cut in plan.left_whole()}
    assert whole == {"stem", "conv1"}  # although conv2 is defined before conv1, and stem after both


def test_requested_and_realised_are_both_told(chain):
    _, plan = draw(chain, 0.3, align=8)
    widths = {cut.group: (cut.width, len(cut.kept)) for cut in plan.groups}
    assert widths == {"features.0": (16, 8), "features.4": (32, 24), "hidden": (24, 16)}
    assert plan.realised_ratio == pytest.approx(24 / 72)
    assert plan.after == apply.cut(chain, plan).geometry.cost()


@pytest.mark.parametrize("budget", [{"align": 64}, {"protect": ("*",)}, {"skip_first": 99}])
def test_a_budget_that_removes_nothing_is_refused(budget):
    model = wrap(nets.ConvHead())
    with pytest.raises(PlanError, match=r"nothing can be cut at ratio 0\.5"):
        draw(model, 0.5, **budget)


def test_ratio_zero_cuts_the_head_alone(chain):
    _, plan = draw(chain, 0)
    assert [cut.layer for cut in plan.layers] == ["head"]
    assert plan.layers[0].kept_out == SUBSET.kept
    assert plan.after == plan.before
    assert not plan.left_whole()


def test_aggregation_lets_no_layer_outvote_the_others(residual):
    narrow = head.cut(residual, SUBSET)
    stream = next(group for group in groups.find(narrow) if group.name == "stem")
    base = scores_for(narrow)
    loud = FilterScores(
        strategy="x", images=0, seed=0,
        layers=tuple(
            entry.model_copy(update={"values": tuple(1000 * v for v in entry.values)})
            if entry.layer == "stem" else entry
            for entry in base.layers
        ),
    )  # fmt: skip
    assert votes.group_scores(stream, base) == pytest.approx(votes.group_scores(stream, loud))


def test_the_union_of_coupled_layers_is_their_maximum(residual):
    narrow = head.cut(residual, SUBSET)
    stream = next(group for group in groups.find(narrow) if group.name == "stem")
    scores = scores_for(narrow).model_copy(update={"across": "max"})
    layers = [member.layer for member in stream.members if member.side == "out"]
    expected = [max(values) for values in zip(
        *(scores.of(layer) for layer in layers if scores.of(layer)), strict=True
    )]  # fmt: skip
    assert votes.group_scores(stream, scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (LayerCut(layer="nowhere", kept_out=(0,)), "no layer nowhere"),
        (LayerCut(layer="features", kept_out=(0,)), "Sequential. cannot be narrowed"),
        (LayerCut(layer="hidden", kept_out=(99,)), "the plan keeps channel 99"),
    ],
)
def test_a_foreign_plan_is_refused(chain, cut, words):
    with pytest.raises(ArchitectureError, match=words):
        rebuild.narrow(chain.copy_module(), [cut])


def test_cutting_leaves_the_original_alone(chain):
    before = copy.deepcopy(chain.module.state_dict())
    _, plan = draw(chain, 0.5)
    apply.cut(chain, plan)
    after = chain.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


class Gated(nn.Module):
    """A residual add whose branch is one depthwise convolution."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, num_classes)

    def forward(self, images):
        x = self.stem(images)
        x = x + self.branch(x)
        return self.head(self.last(x).mean(dim=(2, 3)))


def test_a_depthwise_branch_feeds_a_residual_add_too():
    found = {group.name: group.residual for group in groups.find(wrap(Gated()))}
    assert found == {"stem": True, "last": False}


def test_groups_that_begin_at_one_layer_have_names_of_their_own():
    """By name they are weighed, cut and drawn; of two of one name the second was taken for both."""
    torch.manual_seed(0)
    model = wrap(shaken(nets.Forked()), "tests.nets:Forked")
    found = {group.name: group.makers for group in groups.find(model)}
    assert found == {"stem": ("stem", "cheap"), "dear": ("stem", "dear"), "last": ("last",)}
    narrow, plan = draw(model, 0.5)
    assert [(cut.group, len(cut.kept)) for cut in plan.groups] == [
        ("stem", 8), ("dear", 8), ("last", 16)
    ]  # fmt: skip
    cut, silent = apply.cut(model, plan), silence(copy.deepcopy(narrow.module), plan, narrow)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(cut.module(images), silent(images), atol=1e-4)

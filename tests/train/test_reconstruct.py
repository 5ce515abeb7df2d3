"""Reconstruction of the layers behind a cut."""

import copy

import numpy as np
import pytest
import torch

from capdeploy.observe.walk import Walk
from capdeploy.progress import Quiet
from capdeploy.prune import apply
from capdeploy.train import reconstruct as module
from capdeploy.train.reconstruct import reconstruct
from capdeploy.zoo import SOURCES
from tests import nets
from tests.conftest import shaken, wrap
from tests.prune.test_groups_and_cut import draw


def solve(narrow, cut, plan, digits):
    return reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())


def answers(images, *models):
    with torch.no_grad():
        return [model.module.eval()(images) for model in models]


def closer(found, broken, wanted, share):
    """Tell whether the squared error is less than a share of what it was."""
    return (found - wanted).square().mean() < share * (broken - wanted).square().mean()


def test_reconstruction_is_exact_when_nothing_is_lost(digits):
    """If the removed channels are copies of kept ones, regression restores the answers."""
    torch.manual_seed(0)
    network = shaken(nets.Chain())
    first, norm = network.features[0], network.features[1]
    with torch.no_grad():
        for layer_values in (
            first.weight,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
        ):
            layer_values[8:] = layer_values[:8]
    model = wrap(network)
    narrow, plan = draw(model, 0.5, align=8, protect=("features.4", "hidden"))
    twins = tuple(range(8))
    plan = plan.model_copy(
        update={
            "layers": tuple(
                cut.model_copy(update={
                    "kept_out": twins if cut.kept_out and cut.layer != "head" else cut.kept_out,
                    "kept_in": twins if cut.kept_in else None,
                })
                for cut in plan.layers
            )
        }
    )  # fmt: skip
    cut = apply.cut(model, plan)
    solved = solve(narrow, cut, plan, digits)
    images, _ = next(digits.train.batches(16))
    wanted, broken, mended = answers(images, narrow, cut, solved)
    assert (mended - wanted).abs().max() < 0.05 * (broken - wanted).abs().max()


def test_reconstruction_brings_the_answers_closer(residual, digits):
    narrow, plan = draw(residual, 0.5, align=4)
    cut = apply.cut(residual, plan)
    before = copy.deepcopy(cut.module.state_dict())
    solved = reconstruct(
        narrow, cut, plan, [digits.train.take(200, seed=0)], batch_size=32, say=Quiet()
    )
    assert all(torch.equal(before[key], value) for key, value in cut.module.state_dict().items())
    images, _ = next(digits.validation.batches(16))
    wanted, broken, mended = answers(images, narrow, cut, solved)
    assert closer(mended, broken, wanted, 0.3)


def test_solving_again_or_after_a_training_begins_from_the_intact_norms(digits):
    """Each solving took a layer's mean off its norm once more."""
    torch.manual_seed(0)
    model = wrap(shaken(SOURCES.load("torchvision").build("resnet18", {}, 10)), "resnet18", 32)
    narrow, plan = draw(model, 0.5, align=8)
    cut = apply.cut(model, plan)

    def solve(begin):
        few = [digits.train.take(64, seed=0)]
        return reconstruct(narrow, begin, plan, few, batch_size=32, say=Quiet())

    once = solve(cut)
    trained = once.copy_module()
    with torch.no_grad():
        for name in set(once.trace.norms) - {"bn1"}:  # in front of which nothing is solved
            norm = trained.get_submodule(name)
            norm.weight.mul_(2.0)
            norm.running_var.mul_(3.0)
            norm.running_mean.add_(1.0)
    twice, after = solve(once), solve(once.with_module(trained))
    images, _ = next(digits.validation.batches(16))
    wanted, first, second, third = answers(images, narrow, once, twice, after)
    assert closer(second, first, wanted, 1.05)
    assert closer(third, first, wanted, 1.05)


def test_every_layer_learns_from_every_image(residual, digits):
    narrow, plan = draw(residual, 0.5, align=4)
    cut = apply.cut(residual, plan)
    assert len(digits.train) > 320
    found, other = (
        reconstruct(
            narrow, cut, plan, [digits.train.only(np.arange(count))], batch_size=64, say=Quiet()
        ).module.state_dict()
        for count in (300, len(digits.train))
    )
    before = cut.module.state_dict()
    solved = [name for name, value in found.items() if name.endswith("weight")
              and not torch.equal(value, before[name])]  # fmt: skip
    assert len(solved) > 4
    assert not any(torch.equal(found[name], other[name]) for name in solved)


@pytest.mark.parametrize("seed", range(5))
def test_few_images_are_not_learnt_by_heart(seed, monkeypatch):
    """A head of 32 inputs, off by a little, and 48 images with some noise: what of new ones?"""
    torch.manual_seed(seed)
    truth, off = torch.randn(4, 32), 0.2 * torch.randn(4, 32)
    inputs = torch.randn(48, 32)
    wanted = inputs @ truth.T + torch.randn(48, 4)

    def error():
        layer = torch.nn.Linear(32, 4)
        with torch.no_grad():
            layer.weight.copy_(truth + off)
        sums = module._Sums(1)
        sums.add(inputs, wanted)
        module._solve(layer, None, sums)
        return float((layer.weight.detach() - truth).square().sum())

    careful = error()
    # The same regression without the higher ridge is what it has to beat; no option turns it off.
    monkeypatch.setattr(module, "ROWS_PER_INPUT", 0)
    assert careful < 0.9 * error()


@pytest.mark.parametrize("groups", [4, 16])
def test_convolutions_in_groups_make_up_for_what_reaches_them(groups, digits):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Separable(groups=groups)))
    narrow, plan = draw(model, 0.25, align=2, protect=("point", "grouped"))
    cut = apply.cut(model, plan)
    solved = solve(narrow, cut, plan, digits)
    # A norm in front that is off can only be made up for by the convolution behind it.
    with torch.no_grad():
        for off in (cut.module.norm.weight, cut.module.norm.bias):
            off *= 0.5
    mended = solve(narrow, cut, plan, digits)
    images, _ = next(digits.validation.batches(64))
    best, broken, found = answers(images, solved, cut, mended)
    assert (found - best).abs().max() < 0.02 * (broken - best).abs().max()


def test_a_channel_that_never_varies_leaves_its_weights_alone(digits):
    torch.manual_seed(0)
    network = shaken(nets.Separable())
    with torch.no_grad():
        network.norm.weight[3], network.norm.bias[3] = 0.0, 0.3337
    model = wrap(network)
    narrow, plan = draw(model, 0.25, align=2, protect=("point", "grouped"))
    cut = apply.cut(model, plan)
    solved = solve(narrow, cut, plan, digits)
    before, after = (m.module.grouped.weight[3] for m in (cut, solved))
    assert (after - before).abs().max() < 0.02 * before.abs().max()


@pytest.mark.parametrize(
    ("make", "is_cut"),
    [
        # A convolution that loses one of its two groups is none in groups any more.
        (nets.Grouped, lambda net: net.grouped.groups == 1),
        # Linear layers that see (N, H, W, C) are reconstructed by their last axis.
        (
            nets.ChannelsLast,
            lambda net: net.wide.out_features < 64 and net.hidden.out_features < 32,
        ),
    ],
)
def test_layers_of_other_layouts_are_reconstructed(make, is_cut, digits):
    torch.manual_seed(0)
    model = wrap(shaken(make()), f"tests.nets:{make.__name__}")
    narrow, plan = draw(model, 0.5, align=2)
    cut = apply.cut(model, plan)
    assert is_cut(cut.module)
    assert not is_cut(narrow.module)
    images, _ = next(digits.validation.batches(16))
    assert closer(*answers(images, solve(narrow, cut, plan, digits), cut, narrow), 0.3)


def test_branches_make_up_for_what_their_shortcuts_lack(digits, monkeypatch):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks()), "tests.nets:Blocks")
    narrow, plan = draw(model, 0.75, align=2, protect=("stem",))
    cut = apply.cut(model, plan)
    images, _ = next(digits.train.batches(64))

    def error():
        solved = solve(narrow, cut, plan, digits)
        with torch.no_grad():
            parts = [m.module.eval() for m in (narrow, solved)]
            wanted, found = (m.stage(torch.relu(m.norm(m.stem(images)))) for m in parts)
        return float((wanted - found).square().mean())

    aware = error()
    # The same regression without that knowledge is what it has to beat; no option turns it off.
    monkeypatch.setattr(Walk, "_beside", lambda *_: None)
    assert aware < 0.9 * error()


class SamePadded(torch.nn.Conv2d):
    """Pads in its forward function, as timm's ``Conv2dSame`` does: its attributes say nothing."""

    def forward(self, images):
        return super().forward(torch.nn.functional.pad(images, (0, 1, 0, 1)))


def test_a_layer_with_a_forward_of_its_own_is_left_as_it_is(digits):
    torch.manual_seed(0)
    network = nets.Chain()
    network.features[4] = SamePadded(16, 32, 3, stride=2)
    model = wrap(shaken(network))
    narrow, plan = draw(model, 0.5, align=4)
    cut = apply.cut(model, plan)
    solved = solve(narrow, cut, plan, digits)
    weights = (each.module.features[4].weight for each in (cut, solved))
    assert torch.equal(*weights)
    assert not torch.equal(cut.module.hidden.weight, solved.module.hidden.weight)

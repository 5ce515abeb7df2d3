"""Reconstruction of the layers behind a cut."""

import copy

import pytest
import torch

from capdeploy.observe.walk import Walk
from capdeploy.progress import Quiet
from capdeploy.prune import apply
from capdeploy.train.reconstruct import reconstruct
from tests import nets
from tests.conftest import shaken, wrap
from tests.prune.test_groups_and_cut import draw


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
    solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    images, _ = next(digits.train.batches(16))
    with torch.no_grad():
        wanted, broken, mended = (m.module.eval()(images) for m in (narrow, cut, solved))
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
    with torch.no_grad():
        wanted, broken, mended = (m.module.eval()(images) for m in (narrow, cut, solved))
    assert (mended - wanted).square().mean() < 0.3 * (broken - wanted).square().mean()


@pytest.mark.parametrize("groups", [4, 16])
def test_convolutions_in_groups_make_up_for_what_reaches_them(groups, digits):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Separable(groups=groups)))
    narrow, plan = draw(model, 0.25, align=2, protect=("point", "grouped"))
    cut = apply.cut(model, plan)
    solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    # A norm in front that is off can only be made up for by the convolution behind it.
    with torch.no_grad():
        for off in (cut.module.norm.weight, cut.module.norm.bias):
            off *= 0.5
    mended = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    images, _ = next(digits.validation.batches(64))
    with torch.no_grad():
        best, broken, found = (m.module.eval()(images) for m in (solved, cut, mended))
    assert (found - best).abs().max() < 0.02 * (broken - best).abs().max()


def test_a_channel_that_never_varies_leaves_its_weights_alone(digits):
    torch.manual_seed(0)
    network = shaken(nets.Separable())
    with torch.no_grad():
        network.norm.weight[3], network.norm.bias[3] = 0.0, 0.3337
    model = wrap(network)
    narrow, plan = draw(model, 0.25, align=2, protect=("point", "grouped"))
    cut = apply.cut(model, plan)
    solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    before, after = (m.module.grouped.weight[3] for m in (cut, solved))
    assert (after - before).abs().max() < 0.02 * before.abs().max()


def test_a_convolution_that_loses_its_groups_is_reconstructed(digits):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Grouped()), "tests.nets:Grouped")
    narrow, plan = draw(model, 0.5, align=2)
    cut = apply.cut(model, plan)
    assert (model.module.grouped.groups, cut.module.grouped.groups) == (2, 1)
    solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    images, _ = next(digits.validation.batches(16))
    with torch.no_grad():
        wanted, broken, mended = (m.module.eval()(images) for m in (narrow, cut, solved))
    assert (mended - wanted).square().mean() < 0.3 * (broken - wanted).square().mean()


def test_linear_layers_that_see_maps_are_reconstructed_by_their_last_axis(digits):
    torch.manual_seed(0)
    model = wrap(nets.ChannelsLast(), "tests.nets:ChannelsLast")
    narrow, plan = draw(model, 0.5, align=2)
    cut = apply.cut(model, plan)
    assert {"wide", "hidden"} <= {entry.layer for entry in plan.layers if entry.kept_out}
    solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
    images, _ = next(digits.validation.batches(16))
    with torch.no_grad():
        wanted, broken, mended = (m.module.eval()(images) for m in (narrow, cut, solved))
    assert (mended - wanted).square().mean() < 0.3 * (broken - wanted).square().mean()


def test_branches_make_up_for_what_their_shortcuts_lack(digits, monkeypatch):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks()), "tests.nets:Blocks")
    narrow, plan = draw(model, 0.75, align=2, protect=("stem",))
    cut = apply.cut(model, plan)
    images, _ = next(digits.train.batches(64))

    def error():
        solved = reconstruct(narrow, cut, plan, [digits.train], batch_size=64, say=Quiet())
        with torch.no_grad():
            parts = [m.module.eval() for m in (narrow, solved)]
            wanted, found = (m.stage(torch.relu(m.norm(m.stem(images)))) for m in parts)
        return float((wanted - found).square().mean())

    aware = error()
    # The same regression without that knowledge is what it has to beat; no option turns it off.
    monkeypatch.setattr(Walk, "_beside", lambda *_: None)
    assert aware < 0.9 * error()

"""Head, batch normalisation and fine-tuning."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from capdeploy.errors import ArchitectureError
from capdeploy.progress import Quiet
from capdeploy.prune import apply
from capdeploy.train import batchnorm, evaluate, finetune, head, imitate, loop
from capdeploy.train.course import Course
from capdeploy.values.classes import ClassSubset
from tests import nets
from tests.conftest import SUBSET, wrap
from tests.prune.test_groups_and_cut import draw

SETTINGS = finetune.Settings(
    epochs=2, learning_rate=3e-3, optimizer="adamw", weight_decay=0.0, clip=1.0, warmup=0.1,
    patience=3, batch_size=32, seed=0,
)  # fmt: skip


@given(ids=st.lists(st.integers(0, 9), min_size=2, max_size=10, unique=True))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("make", [nets.Chain, nets.Residual, nets.ConvHead])
def test_cut_head_answers_as_the_full_one_in_the_users_order(make, ids):
    torch.manual_seed(0)
    model = wrap(make())
    model.module.train()
    subset = ClassSubset(kept=tuple(ids), names=tuple(map(str, ids)), total=10)
    narrow = head.cut(model, subset)
    images = torch.randn(4, 3, 16, 16)
    assert narrow.head_cut
    assert narrow.module.training
    assert model.module.training
    with torch.no_grad():
        full, cut = model.module.eval()(images), narrow.module.eval()(images)
    assert torch.allclose(cut, full[:, ids], atol=1e-5)


def test_features_that_cancel_each_other_are_no_reason_to_refuse():
    """Sums in another order round otherwise: by 1e-5 and more where large features cancel."""
    torch.manual_seed(0)
    network = nets.Chain()
    with torch.no_grad():
        network.hidden.bias.fill_(1e5)
        network.head.weight.copy_(network.head.weight - network.head.weight.mean(1, keepdim=True))
    model = wrap(network)
    narrow = head.cut(model, SUBSET)
    assert head._change(model.module, narrow.module, SUBSET, model.example()) > head.TOLERANCE
    example = model.example().double()
    expected = model.copy_module().double()(example)[:, list(SUBSET.kept)]
    found = narrow.copy_module().double()(example)
    assert torch.allclose(expected, found, rtol=1e-9)


def test_what_only_looks_like_a_head_is_refused():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 10)

        def forward(self, images):
            return self.last(images.mean(dim=(2, 3))).softmax(dim=1)

    with pytest.raises(ArchitectureError, match="changes the kept answers"):
        head.cut(wrap(Shuffled()), SUBSET)


def test_bn_statistics_become_the_averages_over_the_images(residual, digits):
    narrow = head.cut(residual, digits.classes)
    fresh = batchnorm.reestimate(narrow, digits.train.take(40, seed=0), batch_size=40)
    batch, _ = next(digits.train.take(40, seed=0).batches(40))
    response = narrow.module.stem(batch)
    assert torch.allclose(fresh.module.bn0.running_mean, response.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(
        fresh.module.bn0.running_var, response.var(dim=(0, 2, 3), unbiased=True), rtol=1e-4
    )
    assert fresh.module.bn0.momentum == narrow.module.bn0.momentum
    assert not fresh.module.training
    assert torch.equal(fresh.module.bn0.weight, narrow.module.bn0.weight)


def test_a_small_last_batch_counts_as_little_as_it_is(residual, digits):
    narrow = head.cut(residual, digits.classes)
    images = digits.train.take(34, seed=0)
    fresh = batchnorm.reestimate(narrow, images, batch_size=32)
    whole, _ = next(images.batches(34))
    mean = narrow.module.stem(whole).mean(dim=(0, 2, 3))
    assert torch.allclose(fresh.module.bn0.running_mean, mean, atol=1e-5)


def test_a_norm_that_runs_twice_has_the_statistics_of_both(digits):
    torch.manual_seed(0)
    model = wrap(nets.Pyramid())
    images = digits.train.take(34, seed=0)
    seen = []
    hook = model.module.shared.register_forward_hook(lambda *call: seen.append(call[2]))
    fresh = batchnorm.reestimate(model, images, batch_size=32)
    hook.remove()
    alike = fresh.module
    batch, _ = next(images.batches(34))
    with torch.no_grad():
        x = alike.after(alike.relu(alike.stem(batch)))
        both = [alike.shared(each).mean(dim=(0, 2, 3)) for each in (x, F.avg_pool2d(x, 2))]
    assert torch.allclose(alike.norm.running_mean, (both[0] + both[1]) / 2, atol=2e-2)
    assert not torch.allclose(both[0], both[1], atol=2e-2)


def test_one_image_has_no_statistics(residual, digits):
    narrow = head.cut(residual, digits.classes)
    same = batchnorm.reestimate(narrow, digits.train.take(1, seed=0), batch_size=32)
    before, after = narrow.module.state_dict(), same.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_statistics_stay_while_weights_learn(residual, digits):
    frozen = replace(SETTINGS, epochs=1, freeze_bn=True)
    model = residual.with_module(residual.module, classes=digits.classes)
    tuned, _ = finetune.run(model, Course(digits.train, digits.validation), frozen, Quiet())
    before, after = residual.module.state_dict(), tuned.module.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"} <= same
    assert not {"conv1.weight", "bn1.weight", "bn1.bias"} & same


def test_unlabelled_images_teach_only_through_the_teacher(residual, digits):
    narrow, plan = draw(residual, 0.5, align=4)
    cut = apply.cut(residual, plan)
    teacher = imitate.Teacher(narrow, 4.0, imitate.kept_channels(narrow, plan))
    images, _ = next(digits.train.batches(8))
    nobody = torch.full((8,), imitate.UNLABELLED)
    with imitate.lesson(cut.module, None) as loss_of:
        assert float(loss_of(images, nobody).detach()) == 0.0
    with imitate.lesson(cut.module, teacher) as loss_of:
        assert float(loss_of(images, nobody).detach()) > 0.0
    assert not any(layer._forward_hooks for layer in narrow.module.modules())


def test_a_network_has_nothing_to_learn_from_itself(residual, digits):
    narrow, plan = draw(residual, 0.0)
    teacher = imitate.Teacher(narrow, 4.0, imitate.kept_channels(narrow, plan))
    images, _ = next(digits.train.batches(8))
    with imitate.lesson(narrow.copy_module().eval(), teacher) as loss_of:
        loss = loss_of(images, torch.full((8,), imitate.UNLABELLED))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)


def course(digits, teacher=None, unlabelled=None):
    return Course(digits.train, digits.validation, unlabelled, teacher)


def test_training_helps_and_repeats(residual, digits):
    narrow = head.cut(residual, digits.classes)
    first, record = finetune.run(narrow, course(digits), SETTINGS, Quiet())
    second, _ = finetune.run(narrow, course(digits), SETTINGS, Quiet())
    assert record.start_top1 < max(epoch.validation_top1 for epoch in record.epochs)
    left, right = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert not first.module.training


def right(count, *but):
    """100 validation images of which the first are right, those named excepted."""
    found = np.arange(100) < count
    found[list(but)] ^= True
    return found


def test_a_later_state_is_kept_unless_it_is_worse_by_more_than_chance():
    module = torch.nn.Linear(1, 1)
    progress = loop.Progress.begin(right(50), module, 0)
    progress.weigh(right(90), 1, module)
    assert (progress.best_epoch, progress.peak_epoch) == (1, 1)
    progress.weigh(right(90, 0, 1, 95), 2, module)  # two lost, one won: chance
    assert (progress.best_epoch, progress.peak_epoch) == (2, 1)
    progress.weigh(right(88), 3, module)  # two lost, none won: more than the square root of two
    assert (progress.best_epoch, progress.peak_epoch) == (2, 1)
    progress.weigh(right(90, 0, 99), 4, module)  # as good as the best
    assert (progress.best_epoch, progress.peak_epoch) == (4, 4)


def test_what_is_worse_than_the_beginning_is_never_kept():
    module = torch.nn.Linear(1, 1)
    progress = loop.Progress.begin(right(50), module, 0)
    progress.weigh(right(49), 1, module)
    assert (progress.best_epoch, progress.best) == (0, 0.5)
    progress.weigh(right(50, 0, 99), 2, module)
    assert progress.best_epoch == 2


def test_training_that_ends_worse_is_rolled_back(residual, digits):
    narrow = head.cut(residual, digits.classes)
    good, _ = finetune.run(narrow, course(digits), SETTINGS, Quiet())
    wild = replace(SETTINGS, learning_rate=50.0, optimizer="sgd", clip=1e9, epochs=2, warmup=0.0)
    same, record = finetune.run(good, course(digits), wild, Quiet())
    assert record.rolled_back or record.diverged
    start = evaluate.accuracy(good, digits.validation, stage="", batch_size=32).top1
    end = evaluate.accuracy(same, digits.validation, stage="", batch_size=32).top1
    assert end >= start == record.start_top1


def test_a_user_s_random_state_is_not_disturbed(residual, digits):
    narrow = head.cut(residual, digits.classes)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    finetune.run(narrow, course(digits), replace(SETTINGS, epochs=1), Quiet())
    assert torch.equal(torch.rand(3), expected)


def test_range_test_finds_a_rate_that_trains(residual, digits):
    narrow = head.cut(residual, digits.classes)
    rate = finetune.find_rate(narrow, course(digits), SETTINGS)
    assert finetune.RANGE_LOW <= rate <= finetune.RANGE_HIGH
    _, record = finetune.run(
        narrow, course(digits), replace(SETTINGS, learning_rate=None, epochs=2), Quiet()
    )
    assert record.rate_found
    assert record.learning_rate == rate
    assert record.epochs[-1].loss < record.epochs[0].loss


def test_schedule_warms_up_and_falls_to_zero():
    rates = loop.Rates(1.0, 100, 0.1)
    values = [rates.next() for _ in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == values[9] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] < 0.001


def test_dropped_images_are_those_of_other_classes(digits):
    extra = digits.dropped(100, seed=0)
    labels = digits.dataset.labels("train")[extra.rows]
    assert len(extra) == 100
    assert not set(labels.tolist()) & set(SUBSET.kept)
    assert digits.dropped(0, seed=0) is None


def test_an_epoch_shows_every_image_once(digits, residual):
    narrow = head.cut(residual, digits.classes)
    teacher = imitate.Teacher(narrow, 4.0)
    mixed = course(digits, teacher, digits.dropped(50, seed=0))
    batches = list(mixed.batches(narrow, 32, np.random.default_rng(0)))
    targets = torch.cat([target for _, target in batches])
    assert len(batches) == mixed.steps(32)
    assert int((targets == imitate.UNLABELLED).sum()) == 50
    assert math.isclose(len(targets), len(digits.train) + 50, abs_tol=1)


def test_accuracy_counts_by_hand(digits, chain):
    full = replace(chain, classes=SUBSET)
    narrow = head.cut(full, SUBSET)
    images = digits.validation
    result = evaluate.accuracy(narrow, images, stage="x", batch_size=7)
    inputs = torch.cat([batch for batch, _ in images.batches(1)])
    with torch.no_grad():
        answers = narrow.module(inputs).argmax(dim=1).numpy()
    for label, entry in enumerate(result.classes):
        mine = images.labels == label
        assert (entry.images, entry.correct) == (mine.sum(), (answers[mine] == label).sum())
    masked = evaluate.accuracy(full, images, stage="x", batch_size=7, masked=True)
    assert masked.classes == result.classes
    whole = evaluate.accuracy(full, images, stage="x", batch_size=7)
    assert whole.correct <= masked.correct

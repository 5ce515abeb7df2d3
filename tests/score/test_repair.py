"""What readers cannot make up for: against refits from scratch, and as an allocation's guide."""

import pytest
import torch

from capdeploy import pipeline, score
from capdeploy.errors import PlanError
from capdeploy.progress import Quiet
from capdeploy.prune import groups, votes
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.report import html, page
from capdeploy.score import repair
from capdeploy.strategies import STRATEGIES, Consumer, Coupled
from capdeploy.train import head
from capdeploy.values.budget import Budget
from tests.conftest import recipe
from tests.references import scoring


def reader(inputs, outputs=4, seed=0, columns=None, place=None):
    generator = torch.Generator().manual_seed(seed)
    size = inputs.shape[1]
    root = torch.randn(outputs, outputs, generator=generator, dtype=torch.float64)
    return Consumer(
        covariance=torch.cov(inputs.T, correction=0),
        weight=torch.randn(size, outputs, generator=generator, dtype=torch.float64),
        importance=root @ root.T,
        columns=torch.arange(size)[:, None] if columns is None else columns,
        place=torch.arange(size) if place is None else place,
    )


def mixed(rows, size, seed=0):
    """Inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(rows, size, generator=generator, dtype=torch.float64) @ mixing


def ridged(inputs):
    """Add rows, of mean zero, that weigh on a refit as much as the ridge does."""
    variance = inputs.var(dim=0, correction=0).mean()
    size = (len(inputs) * repair.DAMPING * variance / 2).sqrt()
    weights = size * torch.eye(inputs.shape[1], dtype=torch.float64)
    return torch.cat([inputs - inputs.mean(dim=0), weights, -weights])


def test_the_error_is_that_of_the_best_refit():
    inputs = mixed(300, 9)
    rows = ridged(inputs)
    # Channels of two inputs each; the last one is not read, and input 8 belongs to another group.
    columns = torch.tensor([[0, 1], [4, 5], [2, 3], [6, 7]])
    seen = reader(inputs, columns=columns, place=torch.tensor([0, 1, 2, 3, -1]))
    leaving = [3, 4, 0, 2, 1]
    lost = repair.losses(seen, torch.tensor(leaving))
    assert lost[1] == 0
    for gone in range(1, 6):
        left = [
            8,
            *(int(c) for channel in leaving[gone:] if channel != 4 for c in columns[channel]),
        ]
        error = scoring.error_of_the_best_refit(rows, left, seen.weight, seen.importance)
        error *= len(rows) / len(inputs)
        assert float(lost[:gone].sum()) == pytest.approx(error / 2, rel=1e-9)


def test_in_its_own_order_it_is_what_contrast_counts():
    seen = reader(mixed(300, 12))
    strategy = STRATEGIES.load("contrast")
    options = strategy.settle({}, name="contrast")
    assert (options["damping"], options["temperature"]) == (repair.DAMPING, repair.TEMPERATURE)
    spent = strategy.per_channel(Coupled(torch.zeros(0), (seen,), options))
    order = spent.argsort()
    lost = repair.losses(seen, order).cumsum(0)
    assert (2 * lost).tolist() == pytest.approx(spent[order].tolist(), rel=1e-6)


def test_channels_that_tell_nothing_cost_nothing():
    inputs = mixed(300, 6)
    inputs[:, 2] = 3 * inputs[:, 0] - inputs[:, 1]
    inputs[:, 5] = 0.0
    lost = repair.losses(reader(inputs), torch.tensor([5, 2, 0, 1, 3, 4]))
    # What is left is the ridge's, a thousandth of the inputs' mean variance.
    assert lost[:2].sum() < 0.01 * lost[2:].sum()


@pytest.fixture
def narrow(residual, digits):
    return head.cut(residual, digits.classes)


def judged(model, digits):
    return score.Judged(model, groups.find(model), digits.train.take(24, seed=0), None, 8, 0)


def forwards(pool):
    return {group.name: list(range(group.width)) for group in pool.groups}


def test_every_curve_begins_at_nothing_and_never_falls(narrow, digits):
    pool = judged(narrow, digits)
    found = repair.curves(pool, forwards(pool))
    assert set(found) == {group.name for group in pool.groups}
    for group in pool.groups:
        assert len(found[group.name]) == group.width + 1
        assert found[group.name][0] == 0
        assert list(found[group.name]) == sorted(found[group.name])
        assert found[group.name][-1] > 0
    assert repair.curves(pool, forwards(pool)) == found


def test_what_is_not_finite_is_refused_by_name(narrow, digits):
    with torch.no_grad():
        narrow.module.conv1.weight[3] = float("nan")
    pool = judged(narrow, digits)
    with pytest.raises(PlanError, match=r"group \w+: what its readers see is not finite"):
        repair.curves(pool, forwards(pool))


def test_loud_copies_go_first_from_a_group_that_scores_call_precious(narrow, digits):
    """Norms of `conv1` are made large and its filters copies of two: only repair knows better."""
    with torch.no_grad():
        for layer in (narrow.module.conv1, narrow.module.bn1):
            for values in (*layer.parameters(), *layer.buffers()):
                if values.ndim:
                    values[2:] = values[:2].repeat(7, *(1,) * (values.ndim - 1))
        # Within the group a few norms stand out, so its normalised scores grow steeply.
        narrow.module.bn1.weight[8:] *= 30
        narrow.module.bn1.bias[8:] *= 30
    pool = judged(narrow, digits)
    scores = score.run("ln_norm", pool)
    plain = Ground(scores, pool.groups, narrow.geometry, None, narrow.geometry.cost())
    leaving = {
        group.name: votes.ranked(group, votes.group_scores(group, scores))[::-1]
        for group in pool.groups
    }
    weighed = Ground(scores, pool.groups, narrow.geometry, None, narrow.geometry.cost(),
                     repair.curves(pool, leaving))  # fmt: skip
    kept = [
        next(len(cut.kept) for cut in planning.draw(ground, budget).groups if cut.group == "conv1")
        for ground, budget in (
            (plain, Budget(ratio=0.3, allocation="global", align=1)),
            (weighed, Budget(ratio=0.3, allocation="repair", align=1)),
        )
    ]
    assert kept[1] <= 2 < kept[0]


def test_a_group_that_cannot_be_weighed_stays_whole_by_name(narrow, digits):
    pool = judged(narrow, digits)
    curves = repair.curves(pool, forwards(pool))
    del curves["conv1"]
    scores = score.run("ln_norm", pool)
    ground = Ground(scores, pool.groups, narrow.geometry, None, narrow.geometry.cost(), curves)
    plan = planning.draw(ground, Budget(ratio=0.5, allocation="repair", align=1))
    reasons = {cut.group: cut.whole_because for cut in plan.left_whole()}
    assert reasons == {"conv1": "the allocation repair cannot weigh it"}
    even = planning.draw(ground, Budget(ratio=0.5, align=1))
    assert not even.left_whole()


def test_a_run_with_a_limit_goes_by_it_and_says_so(trained, tmp_path):
    wanted = recipe(trained, ratio=(), max_macs=("50%",), align=1, tolerance=0.1, epochs=0)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert {curve.group for curve in report.sensitivity} >= {"stem", "conv1"}
    assert all(curve.estimated for curve in report.sensitivity)
    cut = report.models[1]
    assert 0.45 * cut.before.macs <= cut.after.macs <= 0.5 * cut.before.macs
    assert "re-solved" in html.render(page.page(report, {}, "OUT", plots=True))
    # Contrast's scores are such curves already.
    own = wanted.model_copy(update={"strategy": "contrast"})
    assert pipeline.compress(own, tmp_path / "own", Quiet()).sensitivity == ()

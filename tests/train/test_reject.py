"""A reject output: fitted by hand-checkable regression, sealed, rebuilt, and asked by predict."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from scipy.optimize import minimize

from capdeploy import bundle, pipeline, rebuild
from capdeploy.check_images import CheckImages
from capdeploy.errors import ConfigError
from capdeploy.predict import predict
from capdeploy.progress import Quiet
from capdeploy.stages import making
from capdeploy.stages.journal import Journal
from capdeploy.train import head, reject, trust
from capdeploy.values.manifest import REJECTED
from capdeploy.values.plan import PruningPlan
from capdeploy.values.trust import outsider_scores
from tests import nets
from tests.commands import base, capdeploy
from tests.conftest import SUBSET, recipe, wrap


def test_the_row_is_that_of_a_plain_minimiser():
    random = np.random.default_rng(0)
    features = np.vstack([random.normal(0, 1, (80, 3)), random.normal(1, 1, (40, 3))])
    answers = random.normal(0, 1, (120, 2))

    def loss(row):
        """Cross-entropy of "the new output wins", each side half, in the row's own words."""
        margin = features @ row[:3] + row[3] - np.log(np.exp(answers).sum(axis=1))
        chance = 1 / (1 + np.exp(-margin))
        data = -0.5 * np.log(1 - chance[:80]).mean() - 0.5 * np.log(chance[80:]).mean()
        return data + 0.5 * reject.RIDGE * ((row[:3] * features.std(axis=0)) ** 2).sum()

    slow = minimize(loss, np.zeros(4), method="Nelder-Mead",
                    options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 10000}).x  # fmt: skip
    weight, bias = reject.fit(features, answers, 80)
    assert weight == pytest.approx(slow[:3], abs=2e-3)
    # Two in a hundred of the others pass; of forty, the outermost lies between.
    passed = answers[80:].max(axis=1) > features[80:] @ weight + bias
    assert passed.sum() == 1


def test_the_weights_of_the_other_outputs_stay_bit_for_bit(residual, digits):
    narrow = head.cut(residual, digits.classes)
    before = {name: value.clone() for name, value in narrow.module.state_dict().items()}
    found = reject.add(narrow, digits.train, digits.dropped(200, seed=0), batch_size=64)
    assert found.reject_output == len(digits.classes)
    assert narrow.reject_output is None
    images, _ = next(digits.validation.batches(32))
    with torch.no_grad():
        was, now = narrow.module.eval()(images), found.module.eval()(images)
    assert torch.allclose(now[:, :-1], was, atol=1e-6)
    weight = found.module.state_dict()["head.weight"]
    assert torch.equal(weight[:-1], before["head.weight"])
    assert all(torch.equal(before[key], value) for key, value in narrow.module.state_dict().items())


def test_scores_of_the_output_by_hand():
    logits = np.array([[1.0, 4.0, 3.0], [1.0, 0.0, 3.0]], np.float32)
    assert outsider_scores(logits, "reject output", 2).tolist() == [1.0, -2.0]
    assert outsider_scores(logits, "max logit", 2).tolist() == [4.0, 1.0]
    with pytest.raises(ValueError, match="no reject output"):
        outsider_scores(logits, "reject output")
    inside, outside = logits[:1].repeat(20, 0), logits[1:].repeat(10, 0)
    assert trust.false_accepts(inside, outside, "reject output", 2) == 0.0
    assert trust.false_accepts(outside, inside, "reject output", 2) == 1.0


@pytest.fixture(scope="module")
def rejecting(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reject") / "out"
    wanted = recipe(trained, reject_class=True, epochs=1, bench=False)
    return folder, pipeline.compress(wanted, folder, Quiet())


def test_a_bundle_with_a_reject_output_is_whole(rejecting):
    folder, report = rejecting
    model = report.models[1]
    stages = [entry.stage for entry in model.accuracy]
    assert stages[-2:] == ["fine-tuned", "reject output added"]
    # Only images that the new output wins are lost.
    assert model.accuracy[-1].correct <= model.accuracy[-2].correct
    opened = bundle.read(folder / "ratio-0.5")
    bundle.verify(opened)
    kept = len(opened.manifest.classes)
    assert opened.manifest.reject_output == kept
    assert opened.path(bundle.LABELS).read_text().splitlines()[-1] == REJECTED
    (output,) = onnx.load(opened.graph_path).graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == kept + 1
    manifest = opened.manifest
    plan = PruningPlan.from_json(opened.path(bundle.PLAN).read_bytes(), source="plan")
    network = rebuild.from_plan(
        manifest.checkpoint.architecture, manifest.checkpoint.outputs, plan,
        opened.path(bundle.WEIGHTS),
    ).eval()  # fmt: skip
    checks = CheckImages.load(opened.folder)
    with torch.no_grad():
        found = network(torch.from_numpy(manifest.preprocessing.apply(np.asarray(checks.images))))
    assert np.array_equal(found.numpy(), checks.logits)
    assert report.models[1].after == manifest.cost
    found = model.trust.rejection
    assert found.score == "reject output"
    assert found.threshold == 0.0
    assert set(found.auroc) == set(found.false_accepts) == {"max logit", "energy", "reject output"}
    assert found.accepted_dropped < 0.5 < found.accepted_kept
    assert len(found.taken_for) == kept


def test_the_output_learns_from_dropped_images_though_training_wants_none(trained):
    """From as many as there are kept ones, so it is the output that one for each would make."""
    wanted = recipe(trained, reject_class=True, epochs=0, bench=False)
    planned = pipeline.plan(wanted, Quiet())
    made = making.Made("x", planned.plans[0], planned.narrow)
    none, alike = (
        making.with_reject_output(
            made, planned.samples, wanted.model_copy(update={"dropped_images": share}), Quiet()
        ).rejecting.module.state_dict()
        for share in (0.0, 1.0)
    )
    assert all(torch.equal(none[name], alike[name]) for name in alike)


def test_predict_asks_the_output(rejecting):
    folder, _ = rejecting
    opened = bundle.read(folder / "ratio-0.5")
    checks = CheckImages.load(opened.folder)
    said = predict(opened, np.asarray(checks.images))
    wins = checks.logits.argmax(axis=1) == opened.manifest.reject_output
    assert [answer.rejected for answer in said] == wins.tolist()


def test_every_runtime_answers_as_the_network(rejecting):
    folder, _ = rejecting
    done = capdeploy("bench", folder, "--seconds", 0.2, "--devices", "cpu", "-f", "json")
    assert done.returncode == 0, done.stderr


def test_a_finished_network_is_read_back_with_its_output(trained, tmp_path, monkeypatch):
    wanted = recipe(trained, reject_class=True, epochs=0, bench=False)
    kept = []
    plain = Journal.keep

    def keep(self, made):
        plain(self, made)
        back = self.recall(made.name)
        kept.append((made, back))

    # The journal lives in a run's temporary folder; it is read while that is there.
    monkeypatch.setattr(Journal, "keep", keep)
    pipeline.compress(wanted, tmp_path / "out", Quiet())
    ((made, back),) = kept
    one, two = made.final.module.state_dict(), back.final.module.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert back.shipped == made.shipped


def test_what_cannot_have_one_is_told_before_any_work(trained, tmp_path, digits):
    done = capdeploy(*base(trained), "--reject-class", "--classes", "0-9", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "needs an output that is not kept, and all 10 are" in done.stderr
    done = capdeploy(*base(trained), "--reject-class", "--keep-head", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "leave out keep_head" in done.stderr
    convolutional = wrap(nets.ConvHead(), "tests.nets:ConvHead")
    with pytest.raises(ConfigError, match="needs a linear head"):
        reject.require(head.cut(convolutional, SUBSET), digits)
    plain = nets.Chain()
    plain.head = torch.nn.Linear(24, 10, bias=False)
    with pytest.raises(ConfigError, match="is one without"):
        reject.require(replace(wrap(plain), classes=SUBSET), digits)

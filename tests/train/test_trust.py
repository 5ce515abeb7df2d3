"""Temperature, calibration error and threshold, against definitions and known cases."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from capdeploy import bundle, pipeline
from capdeploy.check_images import CheckImages
from capdeploy.errors import DataError, UntrustedError
from capdeploy.predict import answers, predict
from capdeploy.progress import Quiet
from capdeploy.train import trust
from capdeploy.values.trust import outsider_scores, probabilities
from tests import nets
from tests.commands import capdeploy
from tests.conftest import recipe


def overconfident(count=4000, factor=3.0, seed=0):
    """Logits whose probabilities are right, multiplied by a factor: T = factor mends them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (count, 4))
    chances = probabilities(honest.astype(np.float32), 1.0)
    targets = np.array([random.choice(4, p=row / row.sum()) for row in chances])
    return (honest * factor).astype(np.float32), targets


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(factor):
    logits, targets = overconfident(factor=factor)
    assert trust.temperature(logits, targets) == pytest.approx(factor, rel=0.1)


def test_calibration_lowers_the_error_and_keeps_the_answers():
    logits, targets = overconfident()
    before = trust.calibration_error(probabilities(logits, 1.0), targets)
    after = trust.calibration_error(probabilities(logits, 3.0), targets)
    assert before > 0.15
    assert after < 0.04
    assert (probabilities(logits, 3.0).argmax(1) == logits.argmax(1)).all()


def test_the_calibration_error_by_hand():
    # Two bins: 0.9 and right half of the time; 0.6 and always right.
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = trust.calibration_error(chances, np.array([0, 1, 0, 0]))
    assert found == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(1.0 - 0.6)) / 4)


def test_scores_are_what_the_papers_say():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    assert outsider_scores(logits, "max logit").tolist() == [3.0, 1000.0]
    by_hand = np.log(np.exp([1.0, 2.0, 3.0]).sum())
    assert outsider_scores(logits, "energy") == pytest.approx([by_hand, 1000.0])


def test_auroc_is_the_chance_to_score_higher():
    random = np.random.default_rng(0)
    inside = random.normal(1, 1, (60, 3)).astype(np.float32)
    outside = random.normal(0, 1, (50, 3)).astype(np.float32)
    by_hand = np.mean(inside.max(1)[:, None] > outside.max(1)[None, :])
    assert trust.auroc(inside, outside, "max logit") == pytest.approx(by_hand)


def test_a_run_knows_its_outsiders(run):
    found = run.report.models[1].trust
    assert 0.05 < found.temperature < 20
    assert found.rejection.accepted_kept > 0.8
    assert found.rejection.accepted_dropped < found.rejection.accepted_kept
    assert sum(found.rejection.taken_for) == found.rejection.dropped_images
    opened = bundle.read(run.bundle)
    assert opened.manifest.trust == found
    logits = CheckImages.load(run.bundle).logits
    said = answers(opened, logits)
    rejected = np.mean([answer.rejected for answer in said])
    assert rejected == pytest.approx(1 - found.rejection.accepted_kept, abs=0.15)
    assert [answer.label for answer in said] == [
        opened.manifest.classes.names[at] for at in logits.argmax(1)
    ]
    assert all(answer.calibrated for answer in said)


def test_predict_answers_and_refuses(run, tmp_path):
    from PIL import Image

    checks = CheckImages.load(run.bundle)
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.asarray(checks.images[number])).save(paths[-1])
    done = capdeploy("predict", run.bundle, *paths, "-f", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["answers"]
    assert len(said) == 6
    names = bundle.read(run.bundle).manifest.classes.names
    right = [said[at]["label"] == names[checks.labels[at]] for at in range(6)]
    assert sum(right) >= 4
    assert not any(said[at]["rejected"] and right[at] for at in range(3))


def with_threshold(opened, threshold):
    trust = opened.manifest.trust
    rejection = trust.rejection.model_copy(update={"threshold": threshold})
    changed = trust.model_copy(update={"rejection": rejection})
    return dataclasses.replace(
        opened, manifest=opened.manifest.model_copy(update={"trust": changed})
    )


def test_the_threshold_decides(run):
    opened = bundle.read(run.bundle)
    checks = CheckImages.load(run.bundle)
    for threshold, refused in ((1e9, True), (-1e9, False)):
        said = answers(with_threshold(opened, threshold), checks.logits)
        assert {answer.rejected for answer in said} == {refused}


def test_a_whole_head_answers_for_the_dropped_classes(trained, tmp_path):
    report = pipeline.compress(
        recipe(trained, keep_head=True, epochs=0, reconstruct=False), tmp_path / "out", Quiet()
    )
    opened = bundle.read(tmp_path / "out" / "ratio-0.5")
    assert opened.manifest.trust is None
    logits = np.zeros((2, 10), np.float32)
    logits[0, 7], logits[1, 3] = 5.0, 5.0  # class 7 is kept, class 3 is not
    kept, other = answers(opened, logits)
    assert (kept.label, kept.rejected, kept.calibrated) == ("7", False, False)
    assert other.rejected
    assert other.confidence < 0.05
    metrics = report.models[1]
    assert [row[at] for at, row in enumerate(metrics.confusion)] == [
        entry.correct for entry in metrics.accuracy[-1].classes
    ]


def test_predict_calls_no_code_of_a_bundle_unasked(run):
    opened = bundle.read(run.bundle)
    images = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(UntrustedError, match=r"its network is built by tests\.nets:Residual"):
        predict(opened, images, runtime="pytorch")
    assert len(predict(opened, images, runtime="pytorch", trust_factory=True)) == 1


def test_predict_leaves_torch_as_its_caller_had_it(run, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    opened, images = bundle.read(run.bundle), np.zeros((1, 16, 16, 3), np.uint8)
    predict(opened, images, runtime="pytorch", threads=before + 1, trust_factory=True)
    assert torch.get_num_threads() == before
    assert torch.backends.cudnn.allow_tf32


def test_nothing_is_made_bolder_where_all_is_right():
    logits = np.eye(4, dtype=np.float32)[np.arange(20) % 4] * 3
    assert trust.temperature(logits, np.arange(20) % 4) == 1.0


def test_a_bad_image_of_another_class_costs_the_threshold_and_not_the_run(image_folder, tmp_path):
    for split, count in (("train", 6), ("val", 3)):
        other = image_folder / split / "eel"
        other.mkdir()
        for number in range(count):
            (other / f"{number}.png").write_bytes(b"no image")
    torch.manual_seed(0)
    save_file(nets.Residual(num_classes=3).state_dict(), tmp_path / "three.safetensors")
    wanted = recipe(
        tmp_path / "three.safetensors", data=f"folder:{image_folder}", classes=("cat", "dog"),
        epochs=0, dropped_images=0.0, reconstruct=False,
    )  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert report.models[1].trust.rejection is None
    assert report.models[1].trust.temperature > 0


def test_what_predict_refuses(run, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    done = capdeploy("predict", run.bundle, tmp_path / "no.png")
    assert done.returncode == DataError.exit_code
    assert "no.png cannot be read as an image" in done.stderr
    done = capdeploy("predict", run.bundle, tmp_path / "no.png", "--precision", "int8")
    assert "has no int8 graph for onnxruntime, only fp32" in done.stderr
    done = capdeploy("predict", run.folder, tmp_path / "no.png")
    assert done.returncode == 2
    assert "it is a run of several; name one of baseline, ratio-0.5 in it" in done.stderr
    shutil.copytree(run.bundle, tmp_path / "damaged")
    graph = tmp_path / "damaged" / bundle.GRAPH
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    done = capdeploy("predict", tmp_path / "damaged", tmp_path / "no.png")
    assert done.returncode == 1
    assert "the file was changed or damaged" in done.stderr

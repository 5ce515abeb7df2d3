"""The street on a GPU: the same answers as on the CPU, up to rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from capdeploy import bundle, gpu, pipeline, recipes, score
from capdeploy.check_images import CheckImages
from capdeploy.progress import Quiet
from capdeploy.prune import apply, blocks, groups, sensitivity
from capdeploy.runtimes import RUNTIMES
from capdeploy.stages import train
from capdeploy.strategies import STRATEGIES
from capdeploy.train import batchnorm, evaluate, finetune, head, keep, reject
from capdeploy.train.course import Course
from capdeploy.train.imitate import Teacher, kept_channels
from capdeploy.train.reconstruct import reconstruct
from capdeploy.values.training import Origin
from tests.conftest import SUBSET, recipe
from tests.prune.test_groups_and_cut import draw
from tests.train.test_keep import Interrupting
from tests.train.test_train import SETTINGS

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="each test asks a GPU for what the CPU answers, and this machine has none to ask",
)


@pytest.fixture(autouse=True)
def _exact():
    """Compute as `compress` does on a GPU."""
    with gpu.exact():
        yield


@pytest.fixture
def pair(residual):
    """The same network on both devices, its head whole."""
    full = residual.with_module(residual.module, classes=SUBSET)
    return full, full.on("cuda")


def logits(model, images):
    return torch.cat([answers for answers, _ in evaluate.answered(model, images, 64)]).numpy()


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_strategy_scores_as_on_the_cpu(name, pair, digits):
    few = digits.train.take(48, seed=0)
    found = []
    for full in pair:
        model = head.cut(full, SUBSET)
        judged = score.Judged(model, groups.find(model), few, few.take(24, seed=1), 16, 0)
        found.append(score.run(name, judged))
    for here, there in zip(*(each.layers for each in found), strict=True):
        assert here.layer == there.layer
        a, b = np.array(here.values), np.array(there.values)
        assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max()


def test_groups_blocks_and_curves_are_those_of_the_cpu(pair, digits):
    few = digits.train.take(32, seed=0)
    found = []
    for full in pair:
        model = head.cut(full, SUBSET)
        coupled = groups.find(model)
        judged = score.Judged(model, coupled, few, None, 16, 0)
        scores = score.run("ln_norm", judged)
        curves = sensitivity.curves(
            model, coupled, scores, few, batch_size=16, cache=None, say=Quiet()
        )
        found.append((coupled, blocks.find(model), curves))
    assert found[0][:2] == found[1][:2]
    for name, curve in found[0][2].items():
        assert np.allclose(curve, found[1][2][name], rtol=1e-3, atol=1e-6)


def test_statistics_reconstruction_and_rejection_are_those_of_the_cpu(pair, digits):
    few = digits.train.take(200, seed=0)
    answers = []
    for full in pair:
        model, plan = draw(full, 0.5)
        cut = apply.cut(full, plan)
        again = batchnorm.reestimate(cut, few, batch_size=32)
        solved = reconstruct(model, cut, plan, [few], batch_size=32, say=Quiet())
        more = reject.add(solved, few, digits.dropped(50, seed=0), batch_size=32)
        assert {each.device.type for each in (cut, again, solved, more)} == {model.device.type}
        answers.append([logits(each, digits.validation) for each in (cut, again, solved, more)])
    for here, there in zip(*answers, strict=True):
        assert np.abs(here - there).max() <= 2e-3 * np.abs(here).max()


def test_training_with_a_teacher_learns_and_stays_there(pair, digits):
    _, full = pair
    model, plan = draw(full, 0.5)
    cut = apply.cut(full, plan)
    course = Course(
        digits.train, digits.validation, digits.dropped(64, seed=0),
        Teacher(model, 4.0, kept_channels(model, plan)), balance=True,
    )  # fmt: skip
    state = torch.cuda.get_rng_state()
    tuned, record = finetune.run(cut, course, SETTINGS, Quiet())
    twin, _ = finetune.run(cut, course, SETTINGS, Quiet())
    assert tuned.device.type == "cuda"
    assert record.epochs[-1].loss < record.epochs[0].loss
    assert np.allclose(logits(tuned, digits.validation), logits(twin, digits.validation), atol=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize(
    "changes",
    [
        {"reject_class": True},
        {"reconstruct": False, "freeze_bn": True, "augment": ("shift",), "steps": 2},
        {"allocation": "sensitivity", "strategy": "contrast", "depth": "prune", "epochs": 0},
        {
            "ratio": (),
            "max_macs": ("60%",),
            "tolerance": 0.3,
            "allocation": "latency",
            "strategy": "lrp",
        },
        {"precision": ("fp16", "int8"), "keep_head": True, "runtimes": ("onnxruntime",)},
    ],
)
def test_the_street_ends_in_a_verified_bundle(changes, trained, tmp_path):
    wanted = recipe(trained, device="cuda", **changes)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert report.models[1].accuracy[-1].top1 > 0.5
    for opened in bundle.find(tmp_path / "out"):
        bundle.verify(opened)
        session = RUNTIMES.load("pytorch").open(opened, "cuda", 1)
        images = CheckImages.load(opened.folder)
        inputs = opened.manifest.preprocessing.apply(np.asarray(images.images))
        assert np.abs(session.run(inputs) - images.logits).max() < 2e-4


def test_a_run_that_was_interrupted_on_the_gpu_goes_on_there(trained, tmp_path, monkeypatch):
    wanted = recipe(trained, device="cuda", ratio=(0.3, 0.5))
    whole = pipeline.compress(wanted, tmp_path / "whole", Quiet())

    class Stops(Quiet):
        def step(self, text):
            if text == "judge on the test split":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(wanted, tmp_path / "out", Stops())
    again = pipeline.compress(wanted, tmp_path / "out", Quiet(), resume=True)
    for one, two in zip(whole.models, again.models, strict=True):
        assert one.accuracy[-1].top1 == pytest.approx(two.accuracy[-1].top1, abs=0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_ends_where_the_whole_one_does(optimizer, pair, digits, tmp_path):
    narrow = head.cut(pair[1], SUBSET)
    course = Course(digits.train, digits.validation, augment=("shift", "colour"))
    settings = replace(SETTINGS, optimizer=optimizer, amp=True)
    origin = Origin(architecture=narrow.checkpoint.architecture, labels=SUBSET.names,
                    input=narrow.preprocessing)  # fmt: skip
    whole, _ = finetune.run(narrow, course, settings, Quiet())
    with pytest.raises(KeyboardInterrupt):
        finetune.run(narrow, course, settings, Quiet(), Interrupting(tmp_path, origin, "a"))
    resumed, record = finetune.run(
        narrow, course, settings, Quiet(), keep.Folder(tmp_path, origin, "a")
    )
    assert len(record.epochs) == 2
    state = whole.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        assert torch.allclose(value.float(), state[name].float(), atol=1e-2), name


def test_a_checkpoint_of_our_own_is_trained_on_the_gpu(tmp_path):
    asked = {"arch": "cifar_resnet:resnet20", "data": "digits", "input_size": [16, 16],
             "classes": ["1", "4"], "epochs": 8, "lr": 3e-3, "batch_size": 64}  # fmt: skip
    report = train(recipes.resolve_training(None, {}, [], asked), tmp_path / "a", Quiet())
    assert report.device == "cuda"
    assert report.test.top1 > 0.7


def test_every_runtime_with_a_gpu_is_measured_on_it(trained, tmp_path):
    wanted = recipe(
        trained, device="cuda", bench=True, bench_seconds=0.5, devices=("cpu", "cuda"),
        runtimes=("pytorch", "onnxruntime"),
    )  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    rows = {
        (row.settings.runtime, row.settings.device): row.result
        for row in report.benchmark.rows if row.settings.bundle == "ratio-0.5"
    }  # fmt: skip
    for runtime in ("pytorch", "onnxruntime"):
        result = rows[runtime, "cuda"]
        if "cuda" in RUNTIMES.load(runtime).devices():
            assert result.parity.holds, result
            assert len(result.latency_ms) >= 10
        else:
            assert "no such device" in result.reason

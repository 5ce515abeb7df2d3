"""Graphs: dynamic batch, no traces of the exporting machine, proofs that can fail."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from capdeploy import bundle
from capdeploy.check_images import CheckImages
from capdeploy.errors import ParityError, StepFailedError
from capdeploy.export import graph, pack, parity
from capdeploy.export.simplify import simplify
from capdeploy.values.artifact import Parity
from tests.conftest import wrap


@pytest.fixture(scope="module")
def shipped(run):
    return run.bundle / bundle.GRAPH


def test_the_graph_is_as_promised(run, shipped):
    model = onnx.load(shipped)
    assert graph.opset(model) == graph.OPSET
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(value.HasField("data_location") and value.data_location
                   for value in model.graph.initializer)  # fmt: skip
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "CastLike"}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["capdeploy.labels"]) == ["7", "1", "4"]
    assert json.loads(facts["capdeploy.class_ids"]) == [7, 1, 4]
    assert json.loads(facts["capdeploy.preprocessing"])["height"] == 16


def test_no_path_of_the_exporting_machine_is_left(shipped):
    content = shipped.read_bytes()
    for trace in (b"/home", b"/root", b"site-packages", b"stack_trace", b".py"):
        assert trace not in content


def test_parity_is_proven_after_each_stage_on_real_images(run):
    artifact = bundle.read(run.bundle).manifest.artifact
    stages = [proof.stage for proof in artifact.parity]
    assert stages == ["exported", "simplified"]
    assert all(proof.holds and proof.images >= 10 for proof in artifact.parity)


def test_every_batch_size_is_tried(run, shipped):
    checks = CheckImages.load(run.bundle)
    inputs = bundle.read(run.bundle).manifest.preprocessing.apply(np.asarray(checks.images))
    proof = parity.check(shipped, inputs, checks.logits, stage="x", atol=1e-4)
    assert proof.holds
    model = onnx.load(shipped)
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.ClearField("dim_param")
    dimension.dim_value = 2
    fixed = shipped.parent.parent / "fixed.onnx"
    onnx.save(model, fixed)
    with pytest.raises(ParityError, match="fails at batch 1"):
        parity.check(fixed, inputs, checks.logits, stage="x", atol=1e-4)
    with pytest.raises(StepFailedError, match="fixed the batch"):
        graph.finish(fixed, {})
    fixed.unlink()


def test_a_wrong_graph_fails_parity(run, shipped, tmp_path):
    model = onnx.load(shipped)
    weights = max(model.graph.initializer, key=lambda value: np.prod(value.dims))
    values = numpy_helper.to_array(weights).copy()
    values.flat[::3] += 0.5
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    broken = tmp_path / "broken.onnx"
    onnx.save(model, broken)
    checks = CheckImages.load(run.bundle)
    inputs = bundle.read(run.bundle).manifest.preprocessing.apply(np.asarray(checks.images))
    assert not parity.check(broken, inputs, checks.logits, stage="x", atol=1e-4).holds


def test_nan_is_never_parity():
    wrong = np.full((3, 2), np.nan, dtype=np.float32)
    right = np.zeros((3, 2), dtype=np.float32)
    assert not Parity.between(wrong, right, stage="x", atol=1e9).holds


def test_top1_must_agree_on_every_image():
    assert not Parity(stage="x", images=9, max_abs_error=0, top1_agreement=0.99, atol=1).holds


def test_denormals_are_flushed_and_counted(shipped, tmp_path):
    model = onnx.load(shipped)
    first = model.graph.initializer[0]
    values = numpy_helper.to_array(first).astype(np.float32).copy()
    values.flat[0] = 1e-40
    first.CopyFrom(numpy_helper.from_array(values, first.name))
    path = tmp_path / "denormal.onnx"
    onnx.save(model, path)
    assert graph.finish(path, {}) == 1
    assert graph.finish(path, {}) == 0


def test_onnxsim_that_hangs_or_breaks_is_a_visible_fallback(shipped, tmp_path):
    target = tmp_path / "simple.onnx"
    slow = simplify(shipped, target, seconds=0.01)
    assert not slow.applied
    assert "more than 0.01 s" in slow.reason
    assert not target.exists()


def test_a_broken_onnxsim_does_not_take_the_run_down(shipped, tmp_path, monkeypatch):
    (tmp_path / "onnxsim.py").write_text("raise RuntimeError('no luck today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    failed = simplify(shipped, tmp_path / "simple.onnx", seconds=60)
    assert not failed.applied
    assert "no luck today" in failed.reason
    (tmp_path / "onnxsim.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    crashed = simplify(shipped, tmp_path / "simple.onnx", seconds=60)
    assert crashed.reason == "onnxsim died of signal 11"


def test_an_exporter_that_fails_is_one_line(chain, tmp_path):
    class Untraceable(torch.nn.Module):
        def forward(self, images):
            if images.sum() > 0:
                return images.mean(dim=(2, 3))
            return images.amax(dim=(2, 3))

    from dataclasses import replace

    with pytest.raises(StepFailedError, match="the ONNX exporter failed"):
        graph.export(replace(chain, module=Untraceable()), tmp_path / "x.onnx", {})


def test_float32_rounding_is_allowed_for_and_no_more(residual, digits):
    inputs = digits.preprocessing.apply(digits.validation.pixels(np.arange(10)))
    own = pack.rounding(residual, inputs, pack.answers(residual, inputs))
    assert 0 < own < 1e-5


def test_rounding_counts_the_norms_folded_as_runtimes_have_them(digits):
    """Tiny variances amplify what float32 rounds, and folded norms round it otherwise."""
    inputs = digits.preprocessing.apply(digits.validation.pixels(np.arange(10)))
    images, larger = torch.from_numpy(inputs), 0
    for seed in range(4):
        torch.manual_seed(seed)
        conv, norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16, eps=1e-12)
        rest = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        with torch.no_grad():
            seen = conv(images)
            norm.running_mean.copy_(seen.mean((0, 2, 3)))
            norm.running_var.copy_(1e-8 * seen.var((0, 2, 3)))
            model = wrap(nn.Sequential(conv, norm, *rest).eval())
            exact = model.copy_module().double()(images.double())
            fused = nn.Sequential(fuse_conv_bn_eval(conv, norm), *rest)
            plain, folded = (
                float((net(images) - exact).abs().max()) for net in (model.module, fused)
            )
        found = pack.rounding(model, inputs, pack.answers(model, inputs))
        assert found == pytest.approx(max(plain, folded), rel=1e-6)
        larger += folded > plain
    assert larger  # or the test could not tell


def test_a_graph_that_fails_parity_is_kept_and_refused(run, tmp_path):
    """Nothing is lost, and nobody can ship it by mistake."""
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(run.bundle, folder)
    manifest = folder / bundle.MANIFEST
    text = manifest.read_text()
    proof = bundle.read(folder).manifest.artifact.parity[-1]
    manifest.write_text(text.replace(json.dumps(proof.max_abs_error), "0.5"))
    manifest.write_text(bundle.sealed(bundle.read(folder).manifest).to_json())
    opened = bundle.read(folder)
    bundle.verify(opened)
    with pytest.raises(ParityError, match="do not ship it"):
        bundle.require_parity(opened)
    bundle.require_parity(bundle.read(run.bundle))

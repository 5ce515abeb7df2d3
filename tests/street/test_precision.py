"""Fewer bits along the street: judged on the test split, kept or rejected, and measured."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from capdeploy import bundle, pipeline, predict
from capdeploy.bench import matrix
from capdeploy.errors import ConfigError, MissingError, UsageError
from capdeploy.export import graph as graphs
from capdeploy.progress import Quiet
from capdeploy.report import precision as report_precision
from capdeploy.report import trust
from capdeploy.runtimes import RUNTIMES
from capdeploy.stages import bits, finishing, precision
from capdeploy.values.accuracy import Difference
from capdeploy.values.trust import outsider_scores, probabilities
from tests.commands import base, capdeploy
from tests.conftest import recipe

BITS = {"precision": ("fp32", "fp16", "int8"), "runtimes": ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits") / "out"
    wanted = recipe(trained, **BITS, calibration_images=64, bench=True, bench_seconds=0.3,
                    devices=("cpu",), max_drop=20.0)  # fmt: skip
    return folder, pipeline.compress(wanted, folder, Quiet())


def test_every_runtime_gets_its_graphs_and_they_are_sealed(run):
    folder, report = run
    for model in report.models:
        found = [(each.runtime, each.precision) for each in model.quantized]
        assert found == [("onnxruntime", "int8"), ("openvino", "fp16"), ("openvino", "int8")]
        opened = bundle.read(folder / model.name)
        bundle.verify(opened)
        for each in opened.manifest.quantized:
            assert each.rejected is None
            assert abs(each.drop.points) <= 10
            assert each.drop.low <= each.drop.points <= each.drop.high
            assert each.before.images == model.accuracy[-1].images
            own = opened.in_precision(each.precision, each.runtime)
            assert own.graph_path.is_file()
            assert own.size_bytes == each.size_bytes
    assert opened.precisions("openvino") == ("fp32", "fp16", "int8")
    assert opened.precisions("pytorch") == ("fp32",)
    with pytest.raises(UsageError, match="no int8 graph for pytorch, only fp32"):
        opened.in_precision("int8", "pytorch")


def test_every_precision_has_a_temperature_and_a_threshold_of_its_own(run):
    folder, report = run
    opened = bundle.read(folder / "ratio-0.5")
    whole, logits = opened.manifest.trust, np.float32([[0.5, 1.0, 2.0]])
    own = {(each.precision, each.runtime): each.trust for each in opened.manifest.quantized}
    for (kind, runtime), fitted in own.items():
        assert fitted.calibration_images == whole.calibration_images
        assert fitted.rejection.dropped_images == whole.rejection.dropped_images
        (said,) = predict.answers(opened.in_precision(kind, runtime), logits)
        score = outsider_scores(logits, fitted.rejection.score)[0]
        assert said.confidence == probabilities(logits, fitted.temperature).max()
        assert said.rejected == (score < fitted.rejection.threshold)
    assert own["int8", "onnxruntime"].rejection.threshold != whole.rejection.threshold
    assert own["int8", "onnxruntime"] != own["int8", "openvino"]
    # OpenVINO computes half precision in single on a CPU: what differs is the rounded weights.
    assert own["fp16", "openvino"].temperature == pytest.approx(whole.temperature, rel=0.02)
    shown = {row[0] for row in trust.shown(report)[0].tables[0].rows}
    assert {"ratio-0.5", "ratio-0.5, int8 in openvino"} <= shown
    # Bundles of earlier versions have one for all.
    bare = tuple(each.model_copy(update={"trust": None}) for each in opened.manifest.quantized)
    older = replace(opened, manifest=opened.manifest.model_copy(update={"quantized": bare}))
    (said,) = predict.answers(older.in_precision("int8", "openvino"), logits)
    assert said.confidence == probabilities(logits, whole.temperature).max()


def test_answers_that_are_no_numbers_cost_a_graph_its_own_threshold(run, trained, tmp_path):
    _, report = run
    planned = pipeline.plan(recipe(trained), Quiet())
    graphs.export(planned.narrow, tmp_path / bundle.GRAPH, {})
    broken = onnx.load(tmp_path / bundle.GRAPH)
    (bias,) = [each for each in broken.graph.initializer if list(each.dims) == [3]]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([np.inf, 0, 0]), bias.name))
    onnx.save(broken, tmp_path / "model.int8.onnx")
    (made, *_) = report.models[1].quantized
    said = []

    class Heard(Quiet):
        def note(self, message):
            said.append(message)

    whole, (found,) = finishing.trust(
        planned.narrow, (made,), planned.samples, planned.samples.open_test(), tmp_path,
        recipe(trained), Heard(),
    )  # fmt: skip
    assert whole.rejection is not None
    assert found.trust == made.trust  # left as it was
    assert "int8 in onnxruntime: some answers are no numbers" in said[-1]


def test_every_precision_is_a_row_and_a_line_of_the_table(run):
    _folder, report = run
    rows = {(at.bundle, at.runtime, at.precision): row.result
            for row in report.benchmark.rows for at in (row.settings,)}  # fmt: skip
    assert len(rows) == 2 * (2 + 3)
    # Beside fp32 of the same head-cut network if it is the baseline itself.
    assert rows["baseline", "onnxruntime", "int8"].speed_up is not None
    assert rows["baseline", "onnxruntime", "fp32"].speed_up is None
    assert rows["ratio-0.5", "openvino", "int8"].parity.stage == "openvino"
    table = report_precision.precisions(report)
    assert [row[1:3] for row in table.rows[:5]] == [
        ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
        ("openvino", "fp32"), ("openvino", "fp16"), ("openvino", "int8"),
    ]  # fmt: skip
    assert all(row[-1].startswith("kept") for row in table.rows if row[2] != "fp32")
    matrix.conclude(report.benchmark)  # other answers in fewer bits are no failed parity


def wrong(monkeypatch, images):
    """Take right answers away from every quantised graph; what is judged is listed.

    What eight bits cost a network this small is chance; graphs, ranking, attempts and the sealed
    bundle are real.
    """
    judged = []
    real = precision.judge

    def worse(bench, graph, runtime):
        accuracy, right = real(bench, graph, runtime)
        if graph.name != bundle.GRAPH:
            judged.append(graph.name)
            right = right.copy()
            right[np.flatnonzero(right)[:images]] = False
        return accuracy, right

    monkeypatch.setattr(precision, "judge", worse)
    return judged


def test_what_loses_too_much_is_tried_with_layers_in_fp32_and_then_rejected(
    trained, tmp_path, monkeypatch
):
    judged = wrong(monkeypatch, images=20)
    wanted = recipe(trained, precision=("int8",), runtimes=("onnxruntime",), epochs=0)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    (found,) = report.models[1].quantized
    assert len(judged) > 2
    assert re.search(
        r"points lost \[\+\d.*\], --max-drop allows 1 \(drop_rule real\)", found.rejected
    )
    opened = bundle.read(tmp_path / "out" / "ratio-0.5")
    assert opened.precisions("onnxruntime") == ("fp32",)
    assert not opened.path("model.int8.onnx").exists()
    bundle.verify(opened)
    assert "rejected" in report_precision.precisions(report).rows[1][-1]


@pytest.mark.parametrize(("rule", "kept"), [("real", True), ("lower", True), ("upper", False)])
def test_a_loss_within_chance_counts_as_asked(trained, tmp_path, monkeypatch, rule, kept):
    judged = wrong(monkeypatch, images=3)
    wanted = recipe(trained, precision=("int8",), runtimes=("onnxruntime",), epochs=0,
                    drop_rule=rule, ratio=(0.5,))  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    (found,) = report.models[1].quantized
    assert found.drop.points > 1.0
    assert found.drop.low <= 0
    assert (found.rejected is None) == kept
    assert (len(judged) == 2) == kept  # one graph of each network, or attempts with layers in fp32
    opened = bundle.read(tmp_path / "out" / "ratio-0.5")
    bundle.verify(opened)
    assert opened.path("model.int8.onnx").exists() == kept
    verdict = report_precision.precisions(report).rows[-1][-1]
    assert ("loses more than --max-drop 1, but its interval begins at" in verdict) == kept
    assert ("(drop_rule upper)" in verdict) != kept


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_layer_that_eight_bits_ruin_stays_in_fp32_and_the_rest_is_kept(
    trained, tmp_path, runtime
):
    """A weight on a channel that is always 0 takes all the steps from the others of its filter."""
    planned = pipeline.plan(recipe(trained), Quiet())
    module = planned.narrow.copy_module()
    with torch.no_grad():
        module.bn1.weight[0], module.bn1.bias[0] = 0.0, -1.0
        module.conv2.weight[:, 0] = 1e4
    spoiled = planned.narrow.with_module(module)
    graphs.export(spoiled, tmp_path / bundle.GRAPH, {})
    shown, test = planned.samples.train, planned.samples.open_test()
    calibration = spoiled.preprocessing.apply(shown.pixels(np.arange(64)))
    bench = precision.Bench(spoiled, tmp_path, calibration, test, 5.0, "real", reduce_range=True)
    before = precision.judge(bench, tmp_path / bundle.GRAPH, runtime)
    found = precision.make(bench, "int8", runtime, *before)
    assert found.rejected is None
    assert found.drop.points <= 5.0
    kept = {"onnxruntime": "model.int8.onnx", "openvino": "model.int8.bin"}[runtime]
    assert (tmp_path / kept).is_file()
    nodes = onnx.load(tmp_path / bundle.GRAPH).graph.node
    ruined = [node.name for node in nodes if node.op_type == "Conv"][2]
    assert ruined in found.in_fp32
    whole = precision._attempt(bench, "int8", runtime, *before, ())
    assert whole.rejected is not None


def test_a_missing_quantiser_is_told_before_the_work(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingError, match=r"'capdeploy\[nncf\]', or leave openvino out of --run"):
        bits.wanted(recipe(trained, **BITS))


def test_the_command_takes_and_refuses_precisions(trained, tmp_path):
    done = capdeploy(*base(trained), "--precision", "int9", "--dry-run")
    assert done.returncode == 2
    assert "precision" in done.stderr
    assert "fp16" in done.stderr
    done = capdeploy(
        *base(trained), "--precision", "int8", "--runtimes", "onnxruntime", "--devices", "cpu",
        "--bench-seconds", 0.3, "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Precisions" in done.stdout
    manifest = json.loads((tmp_path / "out" / "ratio-0.5" / "manifest.json").read_text())
    assert manifest["quantized"][0]["precision"] == "int8"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_interval_of_a_paired_difference_covers_it(share):
    """Simulated: two networks that differ by chance on 200 images, 400 times."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        first = random.random(200) < 0.9
        second = np.where(random.random(200) < share, random.random(200) < 0.8, first)
        found = Difference.between(first.tolist(), second.tolist())
        covered += found.low <= 100 * share * (0.9 - 0.8) <= found.high
    assert covered >= 0.93 * 400


def test_a_quantiser_that_fails_is_a_rejection_and_no_error(run, chain, tmp_path):
    _, report = run
    (tmp_path / bundle.GRAPH).write_bytes(b"no graph that anything could quantise")
    calibration = np.zeros((2, 3, 16, 16), np.float32)
    bench = precision.Bench(chain, tmp_path, calibration, None, 1.0, "real", reduce_range=True)
    before = report.models[1].accuracy[-1]
    for runtime in ("onnxruntime", "openvino"):
        found = precision.make(bench, "int8", runtime, before, np.ones(2, bool))
        assert "model.onnx" in found.rejected
        assert found.after is None
        assert [path.name for path in tmp_path.iterdir()] == [bundle.GRAPH]
    failed = report.models[1].model_copy(update={"quantized": (found,)})
    shown = report_precision.precisions(report.model_copy(update={"models": (failed,)}))
    assert shown.rows[1][-1].startswith("rejected: OpenVINO cannot take model.onnx")


@pytest.mark.parametrize(
    ("asked", "runtimes", "line"),
    [("fp16", ("onnxruntime",), "is for openvino"), ("int8", ("pytorch",), "is for onnxruntime")],
)
def test_a_precision_that_no_runtime_takes_is_refused(trained, asked, runtimes, line):
    with pytest.raises(ConfigError, match=line):
        bits.wanted(recipe(trained, precision=(asked,), runtimes=runtimes, devices=("cpu",)))
    if asked == "fp16":  # for a GPU it makes sense, whether this machine has one or not
        found = bits.wanted(
            recipe(trained, precision=(asked,), runtimes=runtimes, devices=("cpu", "cuda"))
        )
        assert found == [("fp16", "onnxruntime")]


def test_half_precision_for_a_gpu_is_sealed_and_its_row_on_the_cpu_is_skipped(trained, tmp_path):
    wanted = recipe(trained, precision=("fp16",), runtimes=("onnxruntime",), ratio=(0.5,),
                    bench=True, bench_seconds=0.3, devices=("cpu", "cuda"))  # fmt: skip
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    opened = bundle.read(tmp_path / "out" / "ratio-0.5")
    bundle.verify(opened)
    assert opened.precisions("onnxruntime") == ("fp32", "fp16")
    half = opened.in_precision("fp16", "onnxruntime")
    assert half.size_bytes < 0.75 * opened.size_bytes  # a small graph is mostly names
    rows = {(row.settings.device, row.settings.precision): row.result
            for row in report.benchmark.rows if row.settings.bundle == "ratio-0.5"}  # fmt: skip
    assert "for GPUs" in rows["cpu", "fp16"].reason
    if "cuda" not in RUNTIMES.load("onnxruntime").devices():
        assert "no such device" in rows["cuda", "fp16"].reason

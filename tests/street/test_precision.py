"""Fewer bits along the street: judged on the test split, kept or rejected, and measured."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch

from capdeploy import bundle, pipeline
from capdeploy.bench import matrix
from capdeploy.errors import ConfigError, MissingError, UsageError
from capdeploy.export import graph as graphs
from capdeploy.progress import Quiet
from capdeploy.report import precision as report_precision
from capdeploy.runtimes import RUNTIMES
from capdeploy.stages import precision
from capdeploy.values.accuracy import Difference
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


def test_what_loses_too_much_is_tried_with_layers_in_fp32_and_then_rejected(
    trained, tmp_path, monkeypatch
):
    """What eight bits cost a network this small is chance, so a tenth of the right answers of every
    quantised graph is taken away; graphs, ranking, attempts and the sealed bundle are real."""
    attempts = []
    real = precision.judge

    def worse(bench, graph, runtime):
        accuracy, right = real(bench, graph, runtime)
        if graph.name != bundle.GRAPH:
            attempts.append(graph.name)
            right = right.copy()
            right[: len(right) // 10] = False
        return accuracy, right

    monkeypatch.setattr(precision, "judge", worse)
    wanted = recipe(trained, precision=("int8",), runtimes=("onnxruntime",), epochs=0)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    (found,) = report.models[1].quantized
    assert len(attempts) > 2
    assert "points lost, --max-drop allows 1" in found.rejected
    opened = bundle.read(tmp_path / "out" / "ratio-0.5")
    assert opened.precisions("onnxruntime") == ("fp32",)
    assert not opened.path("model.int8.onnx").exists()
    bundle.verify(opened)
    assert "rejected" in report_precision.precisions(report).rows[1][-1]


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
    bench = precision.Bench(spoiled, tmp_path, calibration, test, 5.0, reduce_range=True)
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
        precision.wanted(recipe(trained, **BITS))


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
    bench = precision.Bench(chain, tmp_path, calibration, None, 1.0, reduce_range=True)
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
    ("bits", "runtimes", "line"),
    [("fp16", ("onnxruntime",), "is for openvino"), ("int8", ("pytorch",), "is for onnxruntime")],
)
def test_a_precision_that_no_runtime_takes_is_refused(trained, bits, runtimes, line):
    with pytest.raises(ConfigError, match=line):
        precision.wanted(recipe(trained, precision=(bits,), runtimes=runtimes, devices=("cpu",)))
    if bits == "fp16":  # for a GPU it makes sense, whether this machine has one or not
        found = precision.wanted(
            recipe(trained, precision=(bits,), runtimes=runtimes, devices=("cpu", "cuda"))
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

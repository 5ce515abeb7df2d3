"""A device ships one precision: latencies are searched for and compared in it."""

import pytest

from capdeploy import bundle, pipeline, profiles, recipes
from capdeploy.bench import duel, gate
from capdeploy.bench.contest import Sampling
from capdeploy.errors import BudgetError, ConfigError
from capdeploy.progress import Quiet
from capdeploy.stages.place import Place, place_of
from capdeploy.values.report import Settings
from tests.conftest import recipe

ORT = {"runtimes": ("onnxruntime",), "devices": ("cpu",)}


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    wanted = recipe(
        trained, ratio=(), max_latency=("50ms",), precision=("int8",), **ORT, epochs=0, align=8,
        score_images=32, bn_images=32, reconstruct=False, max_drop=100.0,
        calibration_images=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("int8") / "out"
    return folder, pipeline.compress(wanted, folder, Quiet())


def test_a_latency_is_met_in_the_precision_that_is_named_first(run):
    _folder, report = run
    found = report.models[1]
    assert found.search.precision == "int8"
    assert "p50 latency in onnxruntime int8 on cpu" in found.search.sentence
    assert found.search.result.measured <= found.search.budget == 50
    assert found.unmet is None
    report.require_accuracy()


@pytest.mark.parametrize("why", ["3.0 points lost", None])
def test_a_latency_in_bits_that_are_not_shipped_is_not_met(run, why):
    """None: there never was such a graph for that runtime."""
    _folder, report = run
    made = report.models[1].quantized[0].model_copy(update={"rejected": why})
    found = report.models[1].model_copy(update={"quantized": (made,) if why else ()})
    assert found.unmet.startswith("latency-50ms meets its latency in int8 (onnxruntime), which is")
    assert (why or "") in found.unmet
    with pytest.raises(BudgetError, match="raise --max-drop"):
        report.model_copy(update={"models": (report.models[0], found)}).require_accuracy()


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        (("fp32", "int8"), ("onnxruntime", "fp32")),
        (("int8", "fp32"), ("onnxruntime", "int8")),
        (("fp16",), ("openvino", "fp16")),  # which ONNX Runtime's kernels for a CPU cast
    ],
)
def test_where_latency_counts(trained, asked, place):
    wanted = recipe(trained, precision=asked, runtimes=("pytorch", "onnxruntime", "openvino"),
                    devices=("cpu",))  # fmt: skip
    assert place_of(wanted) == Place(place[0], "cpu", wanted.threads or 1, place[1])


def test_a_precision_that_no_runtime_has_a_use_for_is_refused(trained):
    wanted = recipe(trained, precision=("fp16",), **ORT)
    with pytest.raises(ConfigError, match=r"nothing can be measured .* on cpu in fp16"):
        place_of(wanted)


def test_the_profile_says_what_is_shipped_and_the_flag_overrides_it(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text(
        'schema = 1\nid = "board"\ninherits = "this-host"\n[runtime]\nprecision = "int8"\n'
    )
    flags = {"checkpoint": "x.pth", "data": "digits", "profile": str(file)}
    assert recipes.resolve(None, {}, (), flags).precision == ("int8",)
    assert recipes.resolve(None, {}, (), flags | {"precision": ["fp32"]}).precision == ("fp32",)
    assert recipes.resolve(None, {}, (), flags | {"profile": "this-host"}).precision == ("fp32",)


def shipping(precision):
    found = recipes.with_runtime(profiles.load("this-host"), ORT)
    runtime = found.runtime.model_copy(update={"precision": precision})
    return found.model_copy(update={"runtime": runtime})


def test_the_gate_compares_what_is_shipped(run):
    folder, _report = run
    both = [bundle.read(folder / name) for name in ("baseline", "latency-50ms")]
    report = gate.run(
        both[0].folder, both[1].folder, shipping("int8"), sampling=Sampling(blocks=1, rounds=2),
        floors={}, say=Quiet(),
    )  # fmt: skip
    assert [row.settings.precision for row in report.rows] == ["int8"]
    settings = report.rows[0].settings
    assert duel._opened(both[1].folder, settings).graph_path.name == "model.int8.onnx"


def test_where_a_bundle_has_no_such_graph_single_precision_is_compared(run, trained, tmp_path):
    folder, _report = run
    plain = recipe(trained, epochs=0, reconstruct=False, bn_images=32, score_images=32)  # fmt: skip
    pipeline.compress(plain, tmp_path / "out", Quiet())
    pair = [bundle.read(folder / "baseline"), bundle.read(tmp_path / "out" / "baseline")]
    found = gate._settings(pair, shipping("int8"), trust_factory=False)
    assert [settings.precision for settings, _ in found] == ["fp32"]
    settings = Settings(bundle="x", runtime="onnxruntime", device="cpu", threads=1)
    assert duel._opened(pair[1].folder, settings).graph_path.name == bundle.GRAPH

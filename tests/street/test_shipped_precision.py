"""A device ships one precision: latencies are searched for and compared in it."""

from dataclasses import replace

import onnx
import pytest

from capdeploy import bundle, graphfile, pipeline, profiles, recipes
from capdeploy.bench import duel, environment, gate
from capdeploy.bench.contest import Sampling
from capdeploy.errors import BudgetError, ConfigError
from capdeploy.progress import Quiet
from capdeploy.report import gate as gate_report
from capdeploy.runtimes import RUNTIMES
from capdeploy.stages.hunt import Hunt
from capdeploy.stages.place import Place, place_of, to_measure
from capdeploy.sweep import results
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.latency import Search, Trial
from tests.conftest import recipe


class Listening(Quiet):
    def __init__(self):
        self.heard = []

    def note(self, message):
        self.heard.append(message)


ORT = {"runtimes": ("onnxruntime",), "devices": ("cpu",)}


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    wanted = recipe(
        trained, ratio=(), max_latency=("50ms",), precision=("int8",), **ORT, epochs=0, align=8,
        score_images=32, bn_images=32, reconstruct=False, max_drop=100.0,
        calibration_images=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("int8") / "out"
    measure, kinds = Hunt._measure, []

    def recording(hunt, file):
        kinds.append({each.data_type for each in onnx.load(file).graph.initializer})
        return measure(hunt, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hunt, "_measure", recording)
        return folder, pipeline.compress(wanted, folder, Quiet()), kinds


def test_a_latency_is_met_in_the_precision_that_is_named_first(run):
    _folder, report, kinds = run
    assert len(kinds) == 2  # the head-cut network and a candidate
    assert all(onnx.TensorProto.INT8 in each for each in kinds)
    found = report.models[1]
    assert found.search.precision == "int8"
    assert "p50 latency in onnxruntime int8 on cpu" in found.search.sentence
    assert found.search.result.measured <= found.search.budget == 50
    assert found.unmet is None
    report.require_budgets()


@pytest.mark.parametrize("why", ["3.0 points lost", None])
def test_a_latency_in_bits_that_are_not_shipped_is_not_met(run, why):
    """None: there never was such a graph for that runtime."""
    _folder, report, _kinds = run
    made = report.models[1].quantized[0].model_copy(update={"rejected": why})
    found = report.models[1].model_copy(update={"quantized": (made,) if why else ()})
    assert found.unmet.startswith("latency-50ms meets its latency in int8 (onnxruntime), which is")
    assert (why or "") in found.unmet
    with pytest.raises(BudgetError, match="raise --max-drop"):
        report.model_copy(update={"models": (report.models[0], found)}).require_budgets()
    # In a sweep, what is left in single precision is on no front.
    (_, _, _, missed), *rest = results._kinds(found, Place("onnxruntime", "cpu", 1, "int8"))
    assert missed == found.unmet
    # What is rejected is named there, and no candidate.
    assert [missed for _, _, _, missed in rest] == (
        [f"latency-50ms in int8 is rejected: {why}"] if why else []
    )


def test_a_latency_in_bits_says_nothing_of_a_graph_with_layers_in_fp32(run):
    _folder, report, _kinds = run
    made = report.models[1].quantized[0].model_copy(update={"in_fp32": ("a", "b")})
    found = report.models[1].model_copy(update={"quantized": (made,)})
    assert "and 2 layers of the shipped graph are in fp32" in found.unmet
    kinds = list(results._kinds(found, Place("onnxruntime", "cpu", 1, "int8")))
    assert [(bits, missed) for bits, _, _, missed in kinds] == [
        ("fp32", found.unmet), ("int8", found.unmet)
    ]  # fmt: skip


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


@pytest.mark.parametrize("profile", ["this-host", "raspberry-pi-4"])
def test_it_is_known_whether_this_machine_is_the_device(trained, profile):
    wanted = recipe(trained, profile=profile, runtime="onnxruntime", devices=("cpu",))
    here = environment.is_device(profiles.load(profile), environment.read())
    for share, quantity in ((True, "latency"), (False, "latency"), (False, "rss")):
        heard = Listening()
        limit = Limit(quantity=quantity, most=0.5, share=share)
        place = to_measure(wanted, Budget(limit=limit), heard)
        assert place == replace(place_of(wanted), emulated=not here)
        assert len(heard.heard) == (not here and not share)
        search = Search(**vars(place), budget=1, base=2, chosen=0, trials=(
            Trial(macs=1, parameters=1, estimated=1, measured=1),))  # fmt: skip
        assert search.sentence.endswith("not the profile's device") is not here


def test_a_precision_that_no_runtime_has_a_use_for_is_refused(trained):
    wanted = recipe(trained, precision=("fp16",), **ORT)
    with pytest.raises(ConfigError, match=r"nothing can be measured .* on cpu in fp16"):
        place_of(wanted)


def test_a_latency_in_a_graph_that_is_not_made_is_refused_before_the_work(trained):
    wanted = recipe(
        trained, ratio=(), speedup=("2x",), precision=("int8",), runtimes=("openvino",),
        devices=("cpu",), runtime="onnxruntime",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="add onnxruntime to --runtimes"):
        pipeline.plan(wanted, Quiet())


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


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """A bundle in single precision alone."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    wanted = recipe(trained, epochs=0, reconstruct=False, bn_images=32, score_images=32)
    pipeline.compress(wanted, folder, Quiet())
    return folder / "baseline"


def compared(base, head, profile):
    return gate.run(
        base, head, profile, sampling=Sampling(blocks=1, rounds=2), floors={}, say=Quiet()
    )


def test_the_gate_times_what_is_shipped(run):
    folder, _report, _kinds = run
    report = compared(folder / "baseline", folder / "latency-50ms", shipping("int8"))
    assert [row.settings.precision for row in report.rows] == ["int8"]
    rows = next(table for table in gate_report.tables(report) if table.title == "Latency")
    assert rows.rows[0][0] == "onnxruntime int8"


def test_a_block_opens_the_graph_in_the_precision_that_counts(run, monkeypatch):
    folder, _report, _kinds = run
    runtime, opened = RUNTIMES.load("onnxruntime"), []

    def spying(side, device, threads):
        opened.append(side.graph_path.name)
        return runtime.open(side, device, threads)

    # A block's record does not name the files that it opened; the real runtime opens and runs them.
    monkeypatch.setattr(duel.RUNTIMES, "load", lambda _: replace(runtime, open=spying))
    # A block binds its own process to a core; in this one the other tests go on.
    monkeypatch.setattr(duel.child, "pin", lambda *_, **__: ())
    settings = {"bundle": "x", "runtime": "onnxruntime", "device": "cpu", "threads": 1}
    job = {
        "base": str(folder / "baseline"), "head": str(folder / "latency-50ms"), "rounds": 1,
        "base_first": True, "trust_factory": False, "percentile": 50, "turn": 0,
    }  # fmt: skip
    duel.block(job | {"settings": settings | {"precision": "int8"}})
    duel.block(job | {"settings": settings})
    assert opened == 2 * ["model.int8.onnx"] + 2 * [bundle.GRAPH]


def precisions(pair, profile):
    return [at.precision for at, _ in gate._settings(pair, profile, trust_factory=False)]


def test_bundles_without_such_a_graph_and_bare_files_are_compared_as_they_are(run, plain):
    folder, _report, _kinds = run
    both, without = bundle.read(folder / "baseline"), bundle.read(plain)
    file = graphfile.read(folder / "baseline" / bundle.GRAPH)
    assert precisions([both, both], shipping("int8")) == ["int8"]
    for pair in ([without, without], [file, file], [both, file], [file, both]):
        assert precisions(pair, shipping("int8")) == ["fp32"]
    assert precisions([both, both], shipping("fp32")) == ["fp32"]


def test_half_precision_is_not_compared_where_nobody_would_run_it(run):
    folder, _report, _kinds = run
    opened = bundle.read(folder / "baseline")
    half = opened.manifest.quantized[0].model_copy(update={"precision": "fp16"})
    manifest = opened.manifest.model_copy(update={"quantized": (half,)})
    pair = [replace(opened, manifest=manifest)] * 2
    profile = shipping("fp16")
    runtime = profile.runtime.model_copy(update={"devices": ("cpu", "cuda")})
    assert precisions(pair, profile.model_copy(update={"runtime": runtime})) == ["fp32", "fp16"]


def test_a_head_that_lost_its_graph_in_fewer_bits_is_a_regression(run, plain):
    folder, _report, _kinds = run
    report = compared(folder / "baseline", plain, shipping("int8"))
    assert report.verdict.kind == "regressed"
    assert any("has no int8 graph for onnxruntime" in line for line in report.verdict.findings)

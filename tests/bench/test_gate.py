"""The gate on real bundles: facts are exact, rows are measured, verdicts are joined."""

import json
import resource
import shutil
import signal
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

from capdeploy import bundle, profiles, recipes
from capdeploy.bench import child, contest, duel, facts, floor, gate, history, sides
from capdeploy.bench.contest import Sampling
from capdeploy.bench.duel import Arena
from capdeploy.cli import gate as command
from capdeploy.errors import ConfigError, DigestError, UsageError
from capdeploy.progress import Quiet
from capdeploy.report import gate as shown
from capdeploy.values.gate import Fact, GateReport, SkippedRow
from capdeploy.values.report import Settings, Skipped
from capdeploy.values.verdict import Incomparable, Inconclusive, Kept, Regressed
from tests.bench.test_gate_statistics import Weather

FEW = Sampling(blocks=2, calibration=2, rounds=3, doublings=0)


def profile(*runtimes):
    return recipes.with_runtime(
        profiles.load("this-host"), {"runtimes": list(runtimes), "devices": ["cpu"]}
    )


def resealed(folder, **changes):
    """Change a bundle's manifest as another build would have written it."""
    path = folder / bundle.MANIFEST
    data = json.loads(path.read_text())
    for name, value in changes.items():
        target = data
        *parents, last = name.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(data))
    return sides.read(folder)


@pytest.fixture
def pair(run, tmp_path):
    shutil.copytree(run.bundle, tmp_path / "head")
    return sides.read(run.bundle), tmp_path / "head"


def found(base, head, name, **allowed):
    limits = profile().gate.model_copy(update=allowed)
    return next(fact for fact in facts.compare(base, head, limits) if fact.name == name)


def test_equal_bundles_have_equal_facts(pair):
    base, head = pair
    outcomes = {fact.name: fact.outcome for fact in facts.compare(base, sides.read(head),
                                                                  profile().gate)}  # fmt: skip
    assert set(outcomes) == {
        "parameters", "MACs", "bytes", "nodes", "opset", "labels", "preprocessing", "accuracy",
        "parity",
    }  # fmt: skip
    assert set(outcomes.values()) == {"same"}


@pytest.mark.parametrize(
    ("change", "fact", "said"),
    [
        ({"cost__parameters": 10**7}, "parameters", "10,000,000"),
        ({"cost__macs": 10**9}, "MACs", "MACs: "),
        ({"classes__names": ["1", "7", "4"]}, "labels", "7, 1, 4 -> 1, 7, 4"),
        ({"reject_output": 3}, "labels", "7, 1, 4 -> 7, 1, 4, none of them"),
        ({"head_cut": False}, "labels", "7, 1, 4 -> 7 7, 1 1, 4 4 of 10"),
        ({"preprocessing__mean": [0.1, 0.5, 0.5]}, "preprocessing", "preprocessing changed"),
    ],
)
def test_every_worse_fact_is_named(pair, change, fact, said):
    base, head = pair
    worse = found(base, resealed(head, **change), fact)
    assert worse.outcome == "regressed"
    assert said in worse.finding
    assert found(base, base, fact).outcome == "same"


def test_an_accuracy_drop_is_exact_and_may_be_allowed(pair):
    base, head = pair
    data = json.loads((head / bundle.MANIFEST).read_text())["accuracy"]["classes"]
    data[0]["correct"] -= 1
    worse = resealed(head, accuracy__classes=data)
    images = base.manifest.accuracy.images
    assert found(base, worse, "accuracy").outcome == "regressed"
    assert found(base, worse, "accuracy", max_drop=1 / images).outcome == "changed"
    assert found(worse, base, "accuracy").outcome == "better"


def test_a_smaller_network_is_better_and_the_other_way_round_worse(run):
    small, large = sides.read(run.bundle), sides.read(run.folder / "baseline")
    for name in ("parameters", "MACs", "bytes"):
        assert found(large, small, name).outcome == "better"
        assert found(small, large, name).outcome == "regressed"
    assert found(small, large, "parameters", max_growth=1000.0).outcome == "changed"


def test_graphs_of_other_inputs_are_incomparable(run, tmp_path):
    model = onnx.load(run.bundle / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
    onnx.save(model, tmp_path / "other.onnx")
    report = gate.run(
        run.bundle, tmp_path / "other.onnx", profile("onnxruntime"),
        sampling=FEW, floors={}, say=Quiet(),
    )  # fmt: skip
    assert isinstance(report.verdict, Incomparable)
    assert report.verdict.differing == ("input shape: 3x16x16 and 3x32x16",)
    assert not report.rows


def test_a_whole_gate_in_two_runtimes(run):
    report = gate.run(
        run.bundle, run.bundle, profile("onnxruntime", "openvino", "pytorch"),
        sampling=FEW, floors={}, say=Quiet(),
    )  # fmt: skip
    assert {row.settings.runtime for row in report.rows} == {"onnxruntime", "openvino"}
    # The network of this bundle comes from a factory: its code is not run unasked.
    assert "--trust-factory" in report.skipped[0].result.reason
    for row in report.rows:
        assert len(row.blocks) == 8  # several rows are judged together
        assert all(len(block.base_wall_ms) == 3 for block in row.blocks)
        assert row.blocks[0].effective["threads"] == "1"
        assert len(row.blocks[0].affinity) in (0, 1)
        assert 0.3 < row.effect.ratio < 3
        assert row.effect.level == 0.99
    assert GateReport.from_json(report.to_json()) == report
    tables = shown.tables(report)
    assert [len(table.columns) for table in tables] == [2, 4, 9]


def test_bare_graphs_are_gated_too(run):
    graph = run.bundle / "model.onnx"
    report = gate.run(
        graph, graph, profile("onnxruntime", "pytorch"), sampling=FEW, floors={}, say=Quiet()
    )
    assert [row.settings.runtime for row in report.rows] == ["onnxruntime"]
    assert report.skipped[0].result.reason == "PyTorch needs a bundle, not an ONNX file"
    assert {fact.name for fact in report.facts} == {"parameters", "bytes", "nodes", "opset"}


def test_a_head_that_does_not_run_is_a_regression_and_a_base_a_failed_step(run, tmp_path):
    model = onnx.load(run.bundle / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "broken.onnx")
    report = gate.run(
        run.bundle / "model.onnx", tmp_path / "broken.onnx", profile("onnxruntime"),
        sampling=FEW, floors={}, say=Quiet(),
    )  # fmt: skip
    assert isinstance(report.verdict, Regressed)
    assert "head does not run" in report.verdict.findings[0]
    assert "NoSuchOperator" in report.skipped[0].result.reason
    turned = gate.run(
        tmp_path / "broken.onnx", run.bundle / "model.onnx", profile("onnxruntime"),
        sampling=FEW, floors={}, say=Quiet(),
    )  # fmt: skip
    assert isinstance(turned.verdict, Inconclusive)
    assert gate.exit_code(turned) == 4
    assert ET.fromstring(shown.junit(turned)).get("errors") == "1"


class Steps:
    """A session that takes as long as its clock is told."""

    def __init__(self, clock, ms):
        self.clock, self.ms, self.calls = clock, ms, 0

    def run(self, batch):
        self.calls += 1
        self.clock.now += int(self.ms * 1e6)


class Hands:
    now = 0

    def now_ns(self):
        return self.now


def test_a_block_alternates_sides_and_repeats_disturbed_rounds():
    clock = Hands()
    order = []

    class Named(Steps):
        def __init__(self, name, ms):
            super().__init__(clock, ms)
            self.name = name

        def run(self, batch):
            super().run(batch)
            order.append(self.name)

    switches = iter([0, 0, 0, 100, *[100] * 100])
    arena = Arena([np.zeros((1, 1), np.float32)] * 4, clock, clock, lambda: next(switches))
    block = duel.fight(Named("a", 2.0), Named("b", 3.0), arena, rounds=4, base_first=True)
    assert block.base_wall_ms == (2.0,) * 4
    assert block.head_wall_ms == (3.0,) * 4
    assert block.repeated == 1
    assert block.calls == (12, 8)
    # Four calls of each tell how many make a round; then rounds follow, the second pair twice.
    rounds = order[8:]
    names = []
    while rounds:
        names.append(rounds[0])
        size = block.calls["ab".index(rounds[0])]
        assert set(rounds[:size]) == {names[-1]}
        rounds = rounds[size:]
    assert "".join(names) == "ab" + "ba" * 2 + "ab" + "ba"


def test_a_verdict_needs_one_regression_or_one_open_question():
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    this = profile()
    row = contest.contest(Weather(0, luck=0.001, jitter=0.001, burst=0), settings, this, FEW)
    kept = report_of([row.model_copy(update={"verdict": "kept"})])
    assert gate.conclude(kept) == Kept()
    slow = report_of([row.model_copy(update={"verdict": "regressed", "reason": "+10 %"})])
    assert gate.conclude(slow) == Regressed(findings=("latency in fake on cpu: +10 %",))
    nothing = gate.conclude(report_of([]))
    assert nothing == Inconclusive(reasons=("no latency was measured",))
    unsure = report_of([row.model_copy(update={"verdict": "too noisy", "reason": "wind"})])
    assert gate.conclude(unsure) == Inconclusive(reasons=("latency in fake on cpu: wind",))
    worse = Fact(name="MACs", base="1", head="2", outcome="regressed", finding="MACs: 1 -> 2")
    both = unsure.model_copy(update={"facts": (worse,)})
    assert gate.conclude(both) == Regressed(findings=("MACs: 1 -> 2",))


def test_what_was_asked_for_by_name_has_to_be_there():
    """A gate that skips the runtime it was to guard was green."""
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    row = contest.contest(
        Weather(0, luck=0.001, jitter=0.001, burst=0), settings, profile(), FEW
    ).model_copy(update={"verdict": "kept"})  # fmt: skip
    absent = SkippedRow(
        settings=settings.model_copy(update={"runtime": "openvino"}),
        result=Skipped(reason="openvino is not installed", scope="machine"),
    )
    report = report_of([row]).model_copy(update={"skipped": (absent,)})
    assert gate.conclude(report) == Kept()
    assert gate.conclude(report, ["fake"]) == Kept()
    found = gate.conclude(report, ["openvino"])
    assert found == Inconclusive(reasons=("openvino on cpu: openvino is not installed",))
    # The device is not there, and the runtime was measured on another.
    cuda = absent.model_copy(update={"settings": settings.model_copy(update={"device": "cuda"})})
    here = report.model_copy(update={"skipped": (cuda,)})
    assert gate.conclude(here, ["fake"]) == Kept()
    assert gate.conclude(here, ["fake", "cpu"]) == Kept()
    assert gate.conclude(here, ["cuda"]).kind == "inconclusive"
    nowhere = gate.conclude(here, ["npu"])
    assert nowhere == Inconclusive(reasons=("nothing that was asked for runs on npu",))
    # Nor may a flag that was forgotten make it green.
    untrusted = absent.model_copy(update={"result": Skipped(reason="built by x", scope="trust")})
    there = report.model_copy(update={"skipped": (untrusted,)})
    assert gate.conclude(there) == Kept()
    assert gate.conclude(there, ["openvino"]) == Inconclusive(
        reasons=("openvino on cpu: built by x",)
    )
    # What no machine can do is no open question.
    never = absent.model_copy(update={"result": Skipped(reason="it runs on no such device")})
    assert gate.conclude(report.model_copy(update={"skipped": (never,)}), ["openvino"]) == Kept()


def report_of(rows):
    from capdeploy.bench import environment
    from capdeploy.values.gate import Side

    side = Side(name="x", sha256="0" * 64)
    return GateReport(
        tool_version="0", base=side, head=side, profile="p", environment=environment.read(),
        facts=(), rows=tuple(rows), verdict=Kept(),
    )  # fmt: skip


def test_junit_counts_failures_and_open_questions():
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    row = contest.contest(Weather(0), settings, profile(), FEW)
    worse = Fact(name="MACs", base="1", head="2", outcome="regressed", finding="MACs: 1 < 2 & 3")
    report = report_of([row.model_copy(update={"verdict": "inconclusive", "reason": "wind"})])
    open_ = Fact(name="accuracy", base="1", head="2", outcome="changed", finding="other images")
    same = Fact(name="bytes", base="1", head="1", outcome="same")
    report = report.model_copy(update={"facts": (worse, open_, same)})
    suite = ET.fromstring(shown.junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "2")
    assert suite.find("testcase/skipped").get("message") == "inconclusive: other images"
    assert suite.find("testcase/failure").get("message") == "MACs: 1 < 2 & 3"


def test_junit_tells_a_verdict_that_no_case_tells():
    open_ = report_of([]).model_copy(update={"verdict": Inconclusive(reasons=("a", "b"))})
    suite = ET.fromstring(shown.junit(open_))
    assert (suite.get("tests"), suite.get("skipped")) == ("1", "1")
    assert suite.find("testcase/skipped").get("message") == "a; b"


def test_history_keeps_every_line_and_knows_this_machine(tmp_path):
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    row = contest.contest(Weather(0), settings, profile(), FEW)
    report = report_of([row])
    log = tmp_path / "history.jsonl"
    assert history.read(log) == ()
    first = history.entry(report)
    history.append(log, first)
    history.append(log, first)
    assert history.read(log) == (first, first)
    assert history.compare(first, first) == Kept()
    other_rows = first.model_copy(update={"head_ms": {"elsewhere": 1.0}})
    assert isinstance(history.compare(first, other_rows), Inconclusive)
    assert isinstance(history.judged(report, first, ()).verdict, Inconclusive)
    assert history.judged(report, first, (first,)).verdict == Kept()
    # A network against itself: whatever was found, it is not red.
    slower = report.model_copy(update={"verdict": Regressed(findings=("slower",))})
    assert history.judged(slower, first, (first,)).verdict == Inconclusive(reasons=("slower",))
    broken = Fact(name="parity", base="1", head="2", outcome="regressed", finding="x")
    red = slower.model_copy(update={"facts": (broken,)})
    assert history.judged(red, first, (first,)).verdict == red.verdict
    worse = Fact(name="MACs", base="1", head="2", outcome="same")
    before = Fact(name="MACs", base="1", head="1", outcome="same")
    changed = history.compare(first.model_copy(update={"facts": (before,)}),
                              first.model_copy(update={"facts": (worse,)}))  # fmt: skip
    assert changed.reasons[0].startswith("MACs: 1 on ")
    slow = first.model_copy(update={"head_ms": {k: v * 2 for k, v in first.head_ms.items()}})
    drifted = history.compare(first, slow)
    assert isinstance(drifted, Inconclusive)
    assert "--base" in drifted.reasons[0]
    elsewhere = first.model_copy(update={
        "environment": first.environment.model_copy(update={"cpu_model": "Abacus 3000"}),
    })  # fmt: skip
    other = history.compare(elsewhere, first)
    assert isinstance(other, Incomparable)
    assert "Abacus 3000" in other.differing[0]


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    row = contest.contest(Weather(0), settings, profile(), FEW)
    log, line = tmp_path / "history.jsonl", history.entry(report_of([row]))
    history.append(log, line)
    log.write_text(log.read_text().rstrip("\n"))  # as an editor may leave it
    history.append(log, line)
    assert history.read(log) == (line, line)
    full = log.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(full) + 40, before[1]))
        with pytest.raises(OSError, match="No space left"):
            history.append(log, line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.read_bytes() == full


def test_a_calibration_is_used_on_its_own_machine_only(tmp_path):
    settings = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
    row = contest.contest(Weather(0), settings, profile(), FEW)
    report = report_of([row])
    here = report.environment
    known = history.entry(report).model_copy(update={"kind": "calibration", "noise": {"r": 0.04}})
    assert history.floors((known,), here) == {"r": 0.04}
    gated = known.model_copy(update={"kind": "gate"})
    elsewhere = known.model_copy(update={"fingerprint": "other"})
    assert history.floors((gated, elsewhere), here) == {}


def test_a_damaged_history_is_refused_with_its_line(tmp_path):
    log = tmp_path / "history.jsonl"
    log.write_text("\n{}\n")
    with pytest.raises(ConfigError, match="line 2"):
        history.read(log)
    log.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text"):
        history.read(log)


def test_a_run_s_folder_stands_for_its_one_bundle(run, tmp_path):
    assert sides.read(run.folder).folder == run.bundle
    with pytest.raises(UsageError, match=r"no such file"):
        sides.read(tmp_path / "none.onnx")


def test_a_dead_child_is_said():
    with pytest.raises(child.ChildDiedError, match="No module named"):
        child.run("capdeploy.no_such_module", {}, threads=1, timeout=60)


def test_a_child_that_is_killed_is_not_told_by_its_last_warning(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(
        "import os, signal, sys\n"
        "sys.stderr.write('a warning\\n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "says.py").write_text("raise SystemExit('\\x1b[31mred')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(child.ChildDiedError, match=r"^the process was killed by signal 9$"):
        child.run("dies", {}, threads=1, timeout=60)
    with pytest.raises(child.ChildDiedError, match=r"^the process ended: \\x1b\[31mred$"):
        child.run("says", {}, threads=1, timeout=60)


def test_slow_networks_have_more_time(pair):
    base, head = pair
    few, many = (sides.seconds((base, sides.read(head)), batch) for batch in (1, 32))
    assert sides.BLOCK_SECONDS < few < many
    slow = resealed(head, cost__macs=10**10)  # on a board with 5e8 MACs a second
    assert sides.seconds((base, slow), 1) > 20 * 130
    graph = sides.read(base.folder / "model.onnx")
    assert sides.seconds((graph, graph), 1) > sides.BLOCK_SECONDS


@pytest.mark.parametrize(
    ("verdict", "failed", "strict", "code"),
    [
        ("regressed", 4, True, 1), ("inconclusive", 4, True, 4), ("inconclusive", 0, True, 5),
        ("inconclusive", 0, False, 0), ("kept", 0, True, 0), ("incomparable", 0, True, 5),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_measured_is_told_under_strict_too(verdict, failed, strict, code):
    assert command._exit_code(verdict, failed, strict=strict) == code


def test_this_machine_s_noise_floor_is_a_share():
    assert 0 <= floor.noise_floor(blocks=2) < 5


def test_a_graph_of_free_size_is_refused_and_a_fixed_batch_is_kept(run, tmp_path):
    model = onnx.load(run.bundle / "model.onnx")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    two = sides.read(tmp_path / "two.onnx")
    assert sides.batches(two, 1)[0].shape == (2, 3, 16, 16)
    free = sides.read(run.bundle)
    assert [sides.batch(pair, 1) for pair in ((two, two), (free, two), (free, free))] == [2, 2, 1]
    assert [sides.batch(pair, 2) for pair in ((two, two), (free, two), (free, free))] == [2] * 3
    with pytest.raises(UsageError, match="takes 2 images a call and no other number, asked for 8"):
        sides.batch((free, two), 8)
    dims[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    differing = sides.incomparable(two, sides.read(tmp_path / "three.onnx"))
    assert differing == ("input shape: 2x3x16x16 and 3x3x16x16",)
    assert not sides.incomparable(two, free)
    dims[0].dim_value = 2
    dims[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(UsageError, match="2x3xanyx16, and a free size cannot be timed"):
        sides.read(tmp_path / "free.onnx")


def test_a_profile_without_a_row_and_a_changed_bundle_are_refused(run, pair):
    here = profiles.load("this-host")
    where = here.runtime.model_copy(update={"runtimes": ("openvino",), "devices": ("cuda",)})
    nothing = here.model_copy(update={"runtime": where})  # as a profile's file may say it
    sampled = {"sampling": FEW, "floors": {}, "say": Quiet()}
    with pytest.raises(ConfigError, match="leaves nothing to measure"):
        gate.run(run.bundle, run.bundle, nothing, **sampled)
    resealed(pair[1], cost__macs=1)
    with pytest.raises(DigestError, match="changed after it was sealed"):
        gate.run(run.bundle, pair[1], profile("onnxruntime"), **sampled)


def test_accuracies_of_other_images_are_an_open_question(pair):
    base, head = pair
    data = json.loads((head / bundle.MANIFEST).read_text())["accuracy"]["classes"]
    data[0]["images"] += 1
    other = found(base, resealed(head, accuracy__classes=data), "accuracy")
    assert (other.outcome, "different images" in other.finding) == ("changed", True)
    lost = found(base, resealed(head, accuracy=None), "accuracy")
    assert lost.outcome == "regressed"


def test_where_a_device_ships_fewer_bits_their_bytes_and_accuracy_count(pair):
    base, head = pair
    stem = json.loads((head / bundle.MANIFEST).read_text())["accuracy"]
    int8 = {
        "precision": "int8", "runtime": "onnxruntime", "files": ["model.int8.onnx"],
        "size_bytes": 100_000, "before": stem, "after": stem,
    }  # fmt: skip
    first = stem["classes"][0]
    fewer = {**stem, "classes": [{**first, "correct": first["correct"] - 9}, *stem["classes"][1:]]}
    worse = {**int8, "size_bytes": 200_000, "after": fewer}
    ships = profile("onnxruntime", "openvino")
    ships = ships.model_copy(
        update={"runtime": ships.runtime.model_copy(update={"precision": "int8"})}
    )
    entry = {"files__model.int8.onnx": {"sha256": "0" * 64, "size_bytes": 1}}
    before = resealed(head, quantized=[int8], **entry)
    assert not facts.shipped(base, before, ships)  # the row of its latency says what is lacking
    assert {fact.outcome for fact in facts.shipped(before, before, ships)} == {"same"}
    after = resealed(head, quantized=[worse])
    size, score = facts.shipped(before, after, ships)
    assert (size.name, size.outcome) == ("bytes in int8 for onnxruntime", "regressed")
    assert (score.name, score.outcome) == ("accuracy in int8 for onnxruntime", "regressed")
    assert "points lower" in score.finding
    assert not facts.shipped(before, after, profile("onnxruntime"))
    assert facts.of(before, after, ships)[-1] == score

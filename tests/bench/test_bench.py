"""Measuring: a fake runtime and a fake clock give exact answers; real runtimes give real ones."""

import json
import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from capdeploy import bundle, profiles, recipes
from capdeploy.bench import budgets, environment, matrix, measure, sides, stats, worker
from capdeploy.bench.clock import FakeClock, WallClock
from capdeploy.check_images import CheckImages
from capdeploy.errors import (
    ArchitectureError,
    BudgetError,
    ConfigError,
    MissingDeviceError,
    ParityError,
    StepFailedError,
    UntrustedError,
)
from capdeploy.progress import Quiet
from capdeploy.runtimes import RUNTIMES, Runtime
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import BenchmarkReport, Measured, Row, Settings, Skipped

SETTINGS = Settings(bundle="b", runtime="fake", device="cpu", threads=1)
BATCHES = [np.zeros((1, 3, 4, 4), dtype=np.float32)] * 2


@dataclass
class FakeSession:
    """Answers with what it was told to; counts its calls."""

    answers: object = None
    effective: dict = field(default_factory=lambda: {"device": "fake"})
    calls: int = 0

    def run(self, batch):
        self.calls += 1
        return self.answers(batch) if self.answers else np.zeros((len(batch), 3), np.float32)

    def close(self):
        self.calls = -1


def test_latencies_are_the_clock_s():
    # Readings come in pairs: start, then stop 2 ms later.
    clock = FakeClock([0, 2_000_000] * 1000)
    values = measure.steady(FakeSession(), BATCHES, clock, seconds=0.1)
    assert set(values) == {2.0}
    assert len(values) == 50


def test_warming_stops_when_steady_and_not_before():
    session = FakeSession()
    falling = [step for n in range(30, 0, -1) for step in (0, n * 1_000_000)]
    warm = measure.warm(session, BATCHES, FakeClock(falling + [0, 1_000_000] * 500))
    assert warm[0] == 30.0
    assert warm[-5:] == (1.0,) * 5
    assert len(measure.warm(FakeSession(), BATCHES, FakeClock([0, 1_000_000] * 500))) == 10


def test_the_ratio_of_interleaved_sides_is_exact_with_a_fake_clock():
    class Switch:
        """A clock that runs 3 ms for one session and 1 ms for the other."""

        now = 0

        def now_ns(self):
            return self.now

    clock = Switch()
    slow = FakeSession(answers=lambda batch: setattr(clock, "now", clock.now + 3_000_000))
    fast = FakeSession(answers=lambda batch: setattr(clock, "now", clock.now + 1_000_000))
    result = measure.paired(slow, fast, BATCHES, clock, seconds=0.5)
    assert (result.ratio, result.low, result.high) == pytest.approx((3.0, 3.0, 3.0))
    assert result.rounds >= 6


def test_the_bootstrap_interval_covers_the_truth_and_not_more():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        base = 2.0 * np.exp(generator.normal(0, 0.05, 30))
        head = 1.0 * np.exp(generator.normal(0, 0.05, 30))
        found = stats.speed_up(base, head, seed=seed)
        covered += found.low <= 2.0 <= found.high
    assert 180 <= covered < 200


def test_percentiles_are_numpy_s():
    assert stats.percentile([1, 2, 3, 4], 50) == 2.5


def test_a_missing_device_is_said(run):
    nowhere = Runtime("Fake", ("cpu", "cuda"), lambda: ("cpu",), lambda *_: FakeSession())
    opened = bundle.read(run.bundle)
    wanted = SETTINGS.model_copy(update={"device": "cuda"})
    with pytest.raises(MissingDeviceError, match="no such device: Fake sees no cuda here"):
        worker.row(opened, None, wanted, runtime=nowhere, seconds=0.1, clock=WallClock())


def test_a_runtime_that_answers_wrongly_is_found(run):
    opened = bundle.read(run.bundle)
    checks = CheckImages.load(run.bundle)
    queue = iter(checks.logits)
    honest = FakeSession(answers=lambda batch: next(queue)[None])
    accuracy, parity = worker.check(honest, opened, checks, "fake")
    assert parity.holds
    assert parity.max_abs_error == 0
    assert accuracy.correct == int((checks.logits.argmax(1) == checks.labels).sum())
    liar = FakeSession(answers=lambda batch: np.array([[0, 0, 9]], np.float32))
    _, parity = worker.check(liar, opened, checks, "fake")
    assert not parity.holds


def test_every_runtime_of_the_shelf_answers_as_pytorch_did(run):
    opened = bundle.read(run.bundle)
    for name in RUNTIMES.names():
        runtime = RUNTIMES.load(name)
        assert "cpu" in runtime.devices()
        session = runtime.open(opened, "cpu", 1)
        _, parity = worker.check(session, opened, CheckImages.load(run.bundle), name)
        assert parity.holds, (name, parity)
        assert session.effective["threads"] == "1"
        for size in (1, 2, 7):
            assert session.run(np.zeros((size, 3, 16, 16), np.float32)).shape == (size, 3)
        session.close()


def test_a_runtime_s_answer_is_not_overwritten_by_the_next(run):
    opened = bundle.read(run.bundle)
    for name in RUNTIMES.names():
        session = RUNTIMES.load(name).open(opened, "cpu", 1)
        first = session.run(np.zeros((1, 3, 16, 16), np.float32))
        kept = first.copy()
        session.run(np.ones((1, 3, 16, 16), np.float32))
        assert np.array_equal(first, kept), name


def test_a_whole_benchmark(run):
    profile = profiles.load("this-host")
    report = matrix.run(
        bundle.find(run.folder), profile, seconds=0.3, say=Quiet(), trust_factory=True
    )
    assert len(report.rows) == 2 * 3 * 2
    by_name = {
        (row.settings.bundle, row.settings.runtime, row.settings.device): row.result
        for row in report.rows
    }
    for runtime in profile.runtime.runtimes:
        slim, base = by_name["ratio-0.5", runtime, "cpu"], by_name["baseline", runtime, "cpu"]
        assert isinstance(slim, Measured)
        assert slim.parity.holds
        assert slim.speed_up is not None
        assert base.speed_up is None
        assert slim.load_ms > 0 < slim.first_ms
        assert slim.peak_rss_mib > 10
        assert len(slim.latency_ms) >= 20
        assert slim.size_bytes == (run.bundle / "model.onnx").stat().st_size
    elsewhere = by_name["ratio-0.5", "openvino", "gpu"]
    if isinstance(elsewhere, Skipped):
        assert "no such device" in elsewhere.reason
    assert not report.emulated


def test_a_bundle_s_own_code_is_not_run_unless_trusted(run):
    wanted = SETTINGS.model_copy(update={"runtime": "pytorch", "bundle": "ratio-0.5"})
    result = matrix._in_child(bundle.read(run.bundle), wanted, 0.1, trust_factory=False)
    assert isinstance(result, Skipped)
    assert "tests.nets:Residual; add --trust-factory" in result.reason


def test_wrong_answers_and_missed_budgets_are_negative_verdicts():
    from capdeploy.values.artifact import Parity

    profile = profile_with(latency_p50_ms=1.0)
    row = measured_row()
    report = BenchmarkReport(
        profile="x", emulated=False, environment=environment.read(), includes="", rows=(row,),
        budgets=budgets.judge([row], profile, is_device=True),
    )  # fmt: skip
    with pytest.raises(
        BudgetError, match=r"latency_p50_ms <= 1 for b in fake on cpu: missed \(2\)"
    ):
        budgets.require(report)
    wrong = Parity(stage="x", images=9, max_abs_error=1, top1_agreement=0.5, atol=1e-3)
    liar = row.model_copy(update={"result": row.result.model_copy(update={"parity": wrong})})
    with pytest.raises(ParityError, match="answers differently"):
        budgets.require(report.model_copy(update={"rows": (liar,), "budgets": ()}))


def test_a_baseline_s_own_code_is_not_run_either(run):
    opened = bundle.read(run.bundle)
    honest = Runtime("Fake", ("cpu",), lambda: ("cpu",), lambda *_: FakeSession())
    evil = Runtime(
        "Fake", ("cpu",), lambda: ("cpu",), honest.open,
        lambda entry: "os:system" if entry.manifest.role == "baseline" else None,
    )  # fmt: skip
    with pytest.raises(UntrustedError, match="os:system"):
        worker.row(
            opened, opened.baseline(), SETTINGS, runtime=evil, seconds=0.1, clock=WallClock()
        )


def test_a_dead_child_is_one_line(run, tmp_path, monkeypatch):
    """The row's process is killed by a broken runtime: the reader gets its last words."""
    (tmp_path / "onnxruntime.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wanted = SETTINGS.model_copy(update={"runtime": "onnxruntime", "bundle": "ratio-0.5"})
    result = matrix._in_child(bundle.read(run.bundle), wanted, 0.1, trust_factory=False)
    assert result.failed
    assert "exit 7" in result.reason
    report = matrix.run(
        [bundle.read(run.bundle)],
        recipes.with_runtime(
            profiles.load("this-host"), {"runtimes": ["onnxruntime"], "devices": ["cpu"]}
        ),
        seconds=0.1,
        say=Quiet(),
    )
    with pytest.raises(StepFailedError, match="exit 7"):
        budgets.require(report)


def profile_with(**limits):
    return HardwareProfile.from_plain(
        {"schema": 1, "id": "x", "device": {"arch": "any"},
         "budgets": {name: {"value": value} for name, value in limits.items()}},
        source="test",
    )  # fmt: skip


def measured_row(latency=2.0, name="b"):
    return Row(
        settings=SETTINGS.model_copy(update={"bundle": name}),
        result=Measured(
            effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(latency,) * 20,
            peak_rss_mib=100, size_bytes=3 << 20,
        ),
    )  # fmt: skip


def test_budgets_count_only_on_the_device_but_size_counts_everywhere():
    profile = profile_with(latency_p50_ms=1.0, latency_p90_ms=3.0, size_mib=2.0)
    here = budgets.judge([measured_row()], profile, is_device=True)
    assert [entry.outcome for entry in here] == ["missed", "kept", "missed"]
    away = budgets.judge([measured_row()], profile, is_device=False)
    assert [entry.outcome for entry in away] == ["not evaluated on this host"] * 2 + ["missed"]
    assert away[0].value is None
    assert budgets.judge([measured_row(name="baseline")], profile, is_device=True) == ()


def test_a_profile_matches_only_if_every_given_field_does():
    here = environment.read()
    plain = profiles.load("this-host")
    assert environment.is_device(plain, here)
    for match in ({}, {"arch": "vax"}, {"cpu_model": "no such model"}, {"min_cores": 10_000}):
        other = HardwareProfile.from_plain(
            {"schema": 1, "id": "x", "device": {"arch": "any"}, "match": match}, source="test"
        )
        assert not environment.is_device(other, here)
    # What inherits from a profile of any host and names its own is of that one only.
    match = plain.match.model_copy(update={"cpu_model": "no such model"})
    assert not environment.is_device(plain.model_copy(update={"match": match}), here)


def test_environment_is_json(run):
    here = environment.read()
    assert json.loads(here.to_json())["cores_allowed"] == environment.cores_allowed()
    assert here.cpu_model
    assert here.packages["numpy"]


def test_runtime_settings_of_a_profile_can_be_overridden():
    profile = recipes.with_runtime(profiles.load("this-host"), {"threads": 2, "runtimes": None})
    assert profile.runtime.threads == 2
    assert len(profile.runtime.runtimes) == 3


@pytest.mark.parametrize(("ours_ms", "agrees"), [(2.0, True), (1.0, False)])
def test_a_device_s_own_clock_is_checked_against_ours(ours_ms, agrees):
    class Timed(FakeSession):
        def device_ms(self, batch):
            return 1.5

    clock = FakeClock([round(ours_ms * measure.MS)])
    assert measure.by_own_clock(FakeSession(), BATCHES, clock) == ()
    if agrees:
        found = measure.by_own_clock(Timed(), BATCHES, clock)
        assert set(found) == {1.5}
        assert len(found) >= measure.OWN_CLOCK_MS / ours_ms
        return
    with pytest.raises(StepFailedError, match="did not wait for the device"):
        measure.by_own_clock(Timed(), BATCHES, clock)


def test_openvino_s_own_clock_agrees_with_ours(run):
    opened = RUNTIMES.load("openvino").open(bundle.read(run.bundle), "cpu", 1)
    image = np.zeros((1, 3, 16, 16), dtype=np.float32)
    assert len(measure.by_own_clock(opened, [image], WallClock())) >= measure.LEAST_RUNS
    opened.close()


def test_offline_takes_large_batches_unless_a_batch_is_given(run):
    opened = [bundle.read(run.bundle)]
    profile = recipes.with_runtime(profiles.load("this-host"), {"scenario": "offline"})
    assert {settings.batch for _, settings in matrix._rows(opened, profile)} == {32}
    own = recipes.with_runtime(profile, {"batch": 4})
    assert {(at.batch, at.scenario) for _, at in matrix._rows(opened, own)} == {(4, "offline")}
    with pytest.raises(ConfigError, match=r"in batches \(32 unless it is said\); leave --batch 1"):
        recipes.with_runtime(profile, {"batch": 1})
    usual = profiles.load("this-host")
    assert {settings.batch for _, settings in matrix._rows(opened, usual)} == {1}


def test_a_row_that_breaks_costs_no_other_and_keeps_its_exit_code(run, tmp_path):
    """A bundle of somebody's own class, measured where that class cannot be imported."""
    shutil.copytree(run.folder, tmp_path / "run")
    folder = tmp_path / "run" / "ratio-0.5"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["checkpoint"]["architecture"]["source"] == "factory"
    manifest["checkpoint"]["architecture"]["name"] = "nowhere.nets:Chain"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    given = {"runtimes": ["pytorch", "onnxruntime"], "devices": ["cpu"]}
    report = matrix.run(
        [bundle.read(folder)], recipes.with_runtime(profiles.load("this-host"), given),
        seconds=0.1, say=Quiet(), trust_factory=True,
    )  # fmt: skip
    broken, whole = report.rows
    assert (broken.result.failed, broken.result.error) == (True, "ArchitectureError")
    assert isinstance(whole.result, Measured)
    with pytest.raises(ArchitectureError, match=r"ratio-0\.5 in pytorch on cpu: .*nowhere"):
        budgets.require(report)


def test_a_slow_network_has_the_time_that_it_needs(run):
    opened = bundle.read(run.bundle)
    large = opened.manifest.cost.model_copy(update={"macs": 4_100_000_000})
    slow = replace(opened, manifest=opened.manifest.model_copy(update={"cost": large}))
    images = len(CheckImages.load(run.bundle).images)
    both = matrix._limit(slow, slow)
    assert both == pytest.approx(300 + 2 * images * 4.1 / 0.5, rel=0.01)
    assert 300 < matrix._limit(opened, None) < 310


def test_warming_a_slow_network_ends_after_half_a_minute():
    restless = [4_000_000_000, 1, 6_000_000_000, 1] * 200
    assert len(measure.warm(FakeSession(), BATCHES, FakeClock(restless))) == measure.WARMUP_RUNS


def test_the_peak_is_read_before_inputs_that_are_not_the_network_s(run, monkeypatch):
    """Both run as ever; they are listened to, as no result tells in which order they were called:
    sixteen inputs of this network are less memory than the peak varies by."""
    made = []
    batches, peak = sides.batches, worker.peak_rss_mib

    def counted(artefact, size, images=sides.IMAGES):
        made.append(images)
        return batches(artefact, size, images)

    def read():
        assert made == [1]
        return peak()

    monkeypatch.setattr(sides, "batches", counted)
    monkeypatch.setattr(worker, "peak_rss_mib", read)
    opened = bundle.read(run.bundle)
    wanted = SETTINGS.model_copy(update={"runtime": "onnxruntime"})
    found = worker.row(
        opened, None, wanted, runtime=RUNTIMES.load("onnxruntime"), seconds=0.1, clock=WallClock()
    )
    assert found.peak_rss_mib > 20
    assert made == [1, sides.IMAGES]

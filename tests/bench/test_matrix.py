"""What a row records of its conditions, and what an interrupt leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from capdeploy import bundle, profiles, recipes
from capdeploy.bench import budgets, environment, matrix, topology
from capdeploy.bench.clock import CpuMeter, FakeClock, WallClock
from capdeploy.errors import MissingDeviceError
from capdeploy.progress import Quiet
from capdeploy.report import tables
from capdeploy.values.noise import Noise
from capdeploy.values.report import BenchmarkReport, Measured, Row, Settings, Skipped

PINS = hasattr(os, "sched_setaffinity")


def only(*runtimes, threads=1):
    given = {"runtimes": list(runtimes), "devices": ["cpu"], "threads": threads}
    return recipes.with_runtime(profiles.load("this-host"), given)


class InterruptsAt(Quiet):
    """Presses Ctrl-C when the given row begins."""

    def __init__(self, row):
        self._row = row

    def advance(self, done, total, detail):
        if done == self._row:
            raise KeyboardInterrupt


def test_rows_record_cores_cpu_time_and_noise(run):
    report = matrix.run([bundle.read(run.bundle)], only("onnxruntime"), seconds=0.3, say=Quiet())
    (row,) = report.rows
    if PINS:
        assert row.result.effective["affinity"] == str(topology.ring(os.sched_getaffinity(0), 1)[0])
    mean = sum(row.result.latency_ms) / len(row.result.latency_ms)
    # One thread cannot work longer than the wall clock runs, but for the clocks' grain.
    assert 0 < row.result.cpu_ms_per_inference < 1.2 * mean + 0.05
    assert report.noise.seconds > 0.3
    assert report.noise.sentence in tables.benchmark(report).notes
    assert BenchmarkReport.from_json(report.to_json()) == report


@pytest.mark.skipif(
    not PINS, reason="only Linux binds a process to cores; elsewhere there is nothing to read back"
)
def test_more_threads_than_cores_are_said(run):
    cores = environment.cores_allowed()
    report = matrix.run(
        [bundle.read(run.bundle)], only("onnxruntime", threads=cores + 1), seconds=0.1, say=Quiet()
    )
    found = report.rows[0].result.effective["affinity"]
    assert found == ",".join(map(str, sorted(os.sched_getaffinity(0))))
    assert any("overloaded" in note for note in tables.benchmark(report).notes)


def test_the_parent_keeps_its_own_cores(run):
    before = environment.cores_allowed()
    matrix.run([bundle.read(run.bundle)], only("onnxruntime"), seconds=0.1, say=Quiet())
    assert environment.cores_allowed() == before


def test_an_interrupt_keeps_the_rows_that_ended_and_names_the_others(run):
    report = matrix.run(
        [bundle.read(run.bundle)], only("onnxruntime", "openvino"), seconds=0.1,
        say=InterruptsAt(1),
    )  # fmt: skip
    assert [row.settings.runtime for row in report.rows] == ["onnxruntime"]
    assert [settings.runtime for settings in report.missing] == ["openvino"]
    notes = " ".join(tables.benchmark(report).notes)
    assert "interrupted; 1 row(s) not measured: ratio-0.5 in openvino on cpu" in notes
    with pytest.raises(KeyboardInterrupt):
        matrix.conclude(report)


def test_a_benchmark_of_nothing_is_none(run):
    """Every row skipped used to end with 0."""
    report = matrix.run([bundle.read(run.bundle)], only("onnxruntime"), seconds=0.1, say=Quiet())
    budgets.require_any(report)
    (row,) = report.rows
    absent = row.model_copy(update={"result": Skipped(reason="no such device", scope="machine")})
    budgets.require_any(report.model_copy(update={"rows": (row, absent)}))
    with pytest.raises(MissingDeviceError, match=r"nothing was measured, .*: no such device"):
        budgets.require_any(report.model_copy(update={"rows": (absent,)}))


def test_an_interrupt_before_the_first_row_is_only_that(run):
    with pytest.raises(KeyboardInterrupt):
        matrix.run([bundle.read(run.bundle)], only("onnxruntime"), seconds=0.1, say=InterruptsAt(0))


def test_ctrl_c_prints_what_ended_and_exits_130(run):
    process = subprocess.Popen(
        [sys.executable, "-m", "capdeploy", "bench", str(run.bundle), "--runtimes",
         "onnxruntime,openvino", "--devices", "cpu", "--seconds", "4", "-f", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite in the background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stderr:
        if "1/2" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    printed, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    report = json.loads(printed)
    assert len(report["rows"]) == len(report["missing"]) == 1


def test_cpu_time_is_read_outside_what_is_timed():
    events = []

    class Wall:
        def now_ns(self):
            events.append("wall")
            return 0

    def cpu():
        events.append("cpu")
        return 10 * len(events)

    meter = CpuMeter(Wall(), cpu)
    for _ in range(4):
        meter.now_ns()
    assert events == ["cpu", "wall", "wall", "cpu"] * 2
    assert meter.spent_ns == 60
    assert CpuMeter(FakeClock([7])).now_ns() == 7


def test_cpu_time_counts_work_and_not_sleep():
    meter = CpuMeter(WallClock())
    meter.now_ns()
    time.sleep(0.05)
    meter.now_ns()
    assert meter.spent_ns < 20_000_000


def report_of(*rows, **changes):
    return BenchmarkReport(
        profile="x", emulated=False, environment=environment.read(), includes="",
        rows=tuple(
            Row(
                settings=Settings(bundle=f"b{place}", runtime="r", device="cpu", threads=1),
                result=Measured(
                    effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=values,
                    peak_rss_mib=1, size_bytes=1, cpu_ms_per_inference=0.5,
                ),
            )
            for place, values in enumerate(rows)
        ), **changes,
    )  # fmt: skip


def test_p99_is_shown_only_where_the_sample_bears_it():
    few, many = (1.0,) * 458, (1.0,) * 459
    assert not any(name.startswith("p99") for name in tables.benchmark(report_of(few)).columns)
    table = tables.benchmark(report_of(few, many))
    at = table.columns.index("p99 ms")
    assert [row[at] for row in table.rows] == ["-", "1"]
    assert table.columns[3:6] == ("p50 ms [95 %]", "p90 ms", "p99 ms")


def test_the_wide_table_bounds_what_the_sample_bears_and_tells_cpu_time():
    values = tuple(float(value) for value in range(1, 21))
    table = tables.benchmark(report_of(values), wide=True)
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells["p50 ms [95 %]"] == "10.5 [6, 15]"
    assert cells["p90 ms [95 %]"] == "18.1"  # 36 values would bear bounds
    assert cells["CPU ms"] == "0.5"


def test_a_disturbed_benchmark_says_so_under_its_table():
    noise = Noise(seconds=3, pressure_some_pct=50, involuntary_switches=1)
    notes = tables.benchmark(report_of((1.0,) * 20, noise=noise)).notes
    assert notes[-1].startswith("noise: read these numbers with care")

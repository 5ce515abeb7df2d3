"""Many runs beside each other: the grid, the runs, what a killed sweep leaves, and the front."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capdeploy import pipeline
from capdeploy.bench import budgets, environment
from capdeploy.errors import ConfigError, OutputExistsError, ParityError, UsageError
from capdeploy.progress import Quiet
from capdeploy.report import sweep as tables
from capdeploy.sweep import drive, grid, results
from capdeploy.values.report import BenchmarkReport, Measured, Row, RunReport, Settings, Skipped
from capdeploy.values.sweep import SweepReport, dominated
from capdeploy.workers import cores
from tests.commands import ROOT, capdeploy
from tests.conftest import recipe

AXES = """
[sweep]
strategy = ["ocap", "ln_norm"]

[sweep.subset]
similar = { classes = ["7", "1", "4"] }
distinct = { classes = ["0", "1"] }
"""


def written(path, trained, axes=AXES, **changes):
    import tomli_w

    given = {"epochs": 0, "runtimes": ("onnxruntime",), "devices": ("cpu",), "bench": True,
             "bench_seconds": 0.1}  # fmt: skip
    plain = recipe(trained, **(given | changes)).model_dump(mode="json", exclude_none=True)
    del plain["strategy"], plain["classes"]
    path.write_text(tomli_w.dumps(plain) + axes)
    return path


@pytest.fixture
def sweep(trained, tmp_path):
    return written(tmp_path / "sweep.toml", trained)


def test_every_combination_is_a_complete_recipe(sweep):
    found = grid.read(sweep, {}, ["epochs=2"])
    assert [cell.name for cell in found.cells] == [
        "ocap-similar", "ocap-distinct", "ln_norm-similar", "ln_norm-distinct"
    ]  # fmt: skip
    assert found.cells[1].recipe.classes == ("0", "1")
    assert found.cells[2].recipe.strategy == "ln_norm"
    assert {cell.recipe.epochs for cell in found.cells} == {2}
    assert found.question == ("subset",)
    assert found.networks == 4


def test_what_the_sweep_varies_wins_over_the_environment(sweep):
    found = grid.read(sweep, {"CAPDEPLOY_STRATEGY": "random"}, ["strategy=random"])
    assert {cell.recipe.strategy for cell in found.cells} == {"ocap", "ln_norm"}


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("", r"has no table \[sweep\]"),
        ("[sweep]\n", r"has no table \[sweep\]"),
        ("[sweep]\nratio = [0.5, 0.7]", "put the list into the recipe itself"),
        ("[sweep]\nstrategie = ['ocap']", "unknown recipe key 'strategie'; did you mean strategy"),
        ("[sweep]\nseed = []", "expected a list of values or a table of named points, found"),
        ("[sweep]\nseed = 3", "expected a list of values or a table of named points, found 3"),
        ("[sweep]\nseed = [1, 1]", "sweep.seed has a value twice"),
        ("[sweep]\nseed = [2024-01-01]", "seed: Input should be a valid integer"),
        ("[sweep]\nseed = [0, -1]", "seed: Input should be greater than or equal to 0"),
        ("[sweep.net]\na = 3", "sweep.net.a: expected a table of recipe keys, found 3"),
        ("[sweep.net]\na = {girth = 3}", "sweep.net.a.girth: unknown recipe key 'girth'"),
        ("[sweep.net]\na = {seed = 1}\nA = {seed = 2}", "would share the folder"),
        ("[sweep]\nseed = [" + ",".join(map(str, range(200))) + "]\nepochs = ["
         + ",".join(map(str, range(200))) + "]", "has 40000 runs, at most 10000"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused(axes, words, trained, tmp_path):
    with pytest.raises(ConfigError, match=words):
        grid.read(written(tmp_path / "bad.toml", trained, axes), {}, [])


def test_a_point_without_letters_still_has_a_folder_of_its_own(trained, tmp_path):
    file = written(tmp_path / "s.toml", trained, "[sweep]\nclasses = [['*'], ['0', '1']]")
    assert [cell.name for cell in grid.read(file, {}, []).cells] == ["classes", "0+1"]


def test_a_network_that_answers_wrongly_is_a_failure(run):
    slim = run.report.models[1]
    [*proofs, last] = slim.artifact.parity
    wrong = last.model_copy(update={"top1_agreement": 0.9})
    artifact = slim.artifact.model_copy(update={"parity": (*proofs, wrong)})
    broken = run.report.model_copy(
        update={"models": (slim.model_copy(update={"artifact": artifact}),)}
    )
    assert list(results._faults(broken)) == [
        f"ratio-0.5: the {last.stage} graph answers differently"
    ]
    assert not list(results._faults(run.report))


@pytest.mark.parametrize(
    ("precision", "device", "faults"),
    [("fp32", "cpu", 1), ("int8", "cpu", 0), ("fp32", "npu", 0)],  # which computes in half
)
def test_fewer_bits_answer_otherwise_by_design(run, precision, device, faults):
    proof = run.report.models[1].artifact.parity[-1]
    away = proof.model_copy(update={"top1_agreement": 0.97, "max_abs_error": 0.3})
    measured = Measured(
        effective={}, load_ms=1, first_ms=1, warmup_ms=(), latency_ms=(1.0,), peak_rss_mib=1,
        size_bytes=1, parity=away,
    )  # fmt: skip
    settings = Settings(
        bundle="ratio-0.5", runtime="onnxruntime", device=device, threads=1, precision=precision
    )
    report = BenchmarkReport(
        environment=environment.read(), profile="this-host", emulated=False, includes="all",
        rows=(Row(settings=settings, result=measured),),
    )  # fmt: skip
    found = results._faults(run.report.model_copy(update={"benchmark": report}))
    assert len(list(found)) == faults
    with pytest.raises(ParityError) if faults else contextlib.nullcontext():
        budgets.require(report)


def test_without_a_runtime_of_graphs_rows_have_no_latency(run, trained):
    cell = grid.Cell("x", {}, recipe(trained, runtimes=("pytorch",)))
    rows = list(results._rows(cell, run.report))
    assert [row.timing for row in rows] == [None, None]


def test_what_may_be_lost_is_asked_of_the_sweep(run, trained):
    worse = run.report.models[1].lost.model_copy(update={"points": 3.0})
    models = (run.report.models[0], run.report.models[1].model_copy(update={"lost": worse}))
    report = run.report.model_copy(update={"models": models})
    for most, missed in ((None, False), (4.0, False), (2.0, True)):
        cell = grid.Cell("x", {}, recipe(trained, max_accuracy_drop=most))
        rows = list(results._rows(cell, report))
        assert [row.missed is not None for row in rows] == [False, missed]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.toml")), ids=str)
def test_every_recipe_of_a_sweep_that_is_shipped_can_be_read(path):
    plain = tomllib.loads(path.read_text())
    if "sweep" not in plain:
        return
    names = plain["sweep"].get("network", {"": {}})
    given = [] if any("checkpoint" in each for each in names.values()) else ["checkpoint=x.pth"]
    found = grid.read(path, {}, [*given, f"data={plain.get('data', 'folder:DATA')}"])
    assert len(found.cells) >= 10
    assert all(cell.recipe.budgets() for cell in found.cells)


def test_a_key_may_be_left_to_its_default(sweep):
    assert "lr = 0.01" in grid.read(sweep, {}, ["lr=0.01"]).text
    found = grid.read(sweep, {"CAPDEPLOY_LR": "0.01"}, ["lr=null"])
    assert "lr" not in tomllib.loads(found.text)
    assert found.cells[0].recipe.lr is None


def test_what_the_command_line_said_is_in_the_sweep_s_own_recipe(sweep):
    found = grid.read(sweep, {"CAPDEPLOY_EPOCHS": "3"}, ["score_images=32"])
    sweep.write_text(found.text)
    again = grid.read(sweep, {}, [])
    assert again.cells == found.cells
    assert again.cells[0].recipe.epochs == 3


def test_a_sweep_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        grid.read(tmp_path / "none.toml", {}, [])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(merits):
    marks = dominated(merits)
    front = {merit for merit, mark in zip(merits, marks, strict=True) if not mark}
    assert front
    for merit, mark in zip(merits, marks, strict=True):
        better = [one for one in front if one != merit and one[0] >= merit[0]
                  and one[1] >= merit[1]]  # fmt: skip
        assert bool(better) is mark  # whatever is beaten is beaten by something on the front


WRONG = 'wrong = { classes = ["0", "eleven"] }'
THREE = f"""
[sweep.subset]
similar = {{ classes = ["7", "1", "4"] }}
distinct = {{ classes = ["0", "1"] }}
{WRONG}
"""


@pytest.fixture(scope="module")
def swept(trained, tmp_path_factory):
    """A sweep that was killed while it made its second run, and then resumed; one run fails."""
    folder = tmp_path_factory.mktemp("sweep")
    file, output = written(folder / "sweep.toml", trained, THREE), folder / "out"
    words = ["sweep", str(file), "-o", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "capdeploy", *words], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if list((output / "runs").glob(".distinct.partial-*")):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / "results.jsonl").exists()
    refused = capdeploy(*words)
    assert refused.returncode == 2
    assert "--resume goes on with it" in refused.stderr
    done = capdeploy(*words, "--resume", "-f", "json")
    assert "1 of 3 runs are made already" in done.stderr
    return file, output, done


def test_a_killed_sweep_that_is_resumed_has_what_a_whole_one_has(swept, tmp_path):
    file, output, _ = swept
    cell = grid.read(file, {}, ["bench=false"]).cells[1]
    torch.set_num_threads(cores())  # as the sweep's runs have; other sums round otherwise
    report = pipeline.compress(cell.recipe, tmp_path / "whole", Quiet())
    killed = RunReport.from_json((output / "runs" / cell.name / "report.json").read_text())
    assert killed.models == report.models
    for part in ("weights.safetensors", "model.onnx"):
        mine, other = (
            folder / "ratio-0.5" / part
            for folder in (output / "runs" / cell.name, tmp_path / "whole")
        )
        assert mine.read_bytes() == other.read_bytes()


def test_a_run_that_fails_does_not_cost_the_others(swept):
    _, _, done = swept
    assert done.returncode == 4
    report = SweepReport.from_json(done.stdout)
    assert [row.run for row in report.rows] == ["similar"] * 2 + ["distinct"] * 2
    assert [failure.run for failure in report.failures] == ["wrong"]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("capdeploy: 1 failure(s) in the sweep, first wrong: ")
    assert "eleven" in last


def test_results_are_lines_tables_and_runs_like_any_other(swept):
    _, output, done = swept
    report = SweepReport.from_json(done.stdout)
    lines = (output / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == [row.run for row in report.rows]
    for row in report.rows:
        assert row.timing is not None
        assert row.timing.p90_ms >= row.timing.p50_ms
    assert SweepReport.from_json((output / "sweep.json").read_text()) == report
    for subset in ("similar", "distinct"):
        assert any(not row.dominated for row in report.rows if row.point["subset"] == subset)
    shown, failed = tables.tables(report)
    assert len(shown.rows) == len(report.rows)
    assert len(failed.rows) == 1
    assert capdeploy("verify", output / "runs" / "similar").returncode == 0


def test_a_run_made_from_something_else_is_not_taken_for_one_of_the_sweep(swept):
    file, output, _ = swept
    with pytest.raises(ConfigError, match="was made with epochs = 0, the sweep now says 1"):
        drive.run(grid.read(file, {}, ["epochs=1"]), output, Quiet(), resume=True)


def test_a_checkpoint_that_was_trained_anew_is_not_mixed_with_the_old(swept, tmp_path):
    file, output, _ = swept
    old = grid.read(file, {}, []).cells[0].recipe.checkpoint
    made = output / "runs" / "similar"
    written_there = (made / "recipe.toml").read_text()
    new = tmp_path / "new.pt"
    new.write_bytes(b"another network")
    try:
        (made / "recipe.toml").write_text(written_there.replace(old, str(new)))
        with pytest.raises(ConfigError, match=rf"{new} has changed since .*similar was made"):
            drive.run(grid.read(file, {}, [f"checkpoint={new}"]), output, Quiet(), resume=True)
    finally:
        (made / "recipe.toml").write_text(written_there)


@pytest.fixture
def copied(swept, tmp_path):
    """The finished sweep, to be damaged."""
    file, output, _ = swept
    shutil.copytree(output, tmp_path / "out")
    good = tmp_path / "good.toml"
    good.write_text(file.read_text().replace(WRONG, ""))
    return grid.read(good, {}, []), tmp_path / "out"


def test_a_row_that_failed_is_measured_again(copied):
    found, output = copied
    file = output / "runs" / "similar" / "report.json"
    report = RunReport.from_json(file.read_text())
    row, *others = report.benchmark.rows
    row = row.model_copy(update={"result": Skipped(reason="it took too long", failed=True)})
    benchmark = report.benchmark.model_copy(update={"rows": (row, *others)})
    file.write_text(report.model_copy(update={"benchmark": benchmark}).to_json())
    before = (output / "runs" / "distinct" / "report.json").read_bytes()
    again = drive.run(found, output, Quiet(), resume=True, jobs=2)
    assert not again.failures
    measured = RunReport.from_json(file.read_text()).benchmark.rows
    assert all(isinstance(row.result, Measured) for row in measured)
    assert (output / "runs" / "distinct" / "report.json").read_bytes() == before


def test_what_another_machine_measured_is_measured_again(copied):
    """Else one front would hold latencies of both."""
    found, output = copied
    file = output / "runs" / "similar" / "report.json"
    report = RunReport.from_json(file.read_text())
    other = report.benchmark.environment.model_copy(update={"cpu_model": "another"})
    benchmark = report.benchmark.model_copy(update={"environment": other})
    file.write_text(report.model_copy(update={"benchmark": benchmark}).to_json())
    before = (output / "runs" / "distinct" / "report.json").read_bytes()
    assert not drive.run(found, output, Quiet(), resume=True).failures
    assert RunReport.from_json(file.read_text()).benchmark.environment == environment.read()
    assert (output / "runs" / "distinct" / "report.json").read_bytes() == before


def test_a_limit_out_of_reach_is_listed_and_costs_nothing_else(copied):
    found, output = copied
    file = output / "runs" / "similar" / "report.json"
    report = RunReport.from_json(file.read_text())
    file.write_text(report.model_copy(update={"out_of_reach": ("1 ms is too little",)}).to_json())
    again = drive.run(found, output, Quiet(), resume=True)
    drive.require(again)
    assert [(each.run, each.error) for each in again.out_of_reach] == [
        ("similar", "1 ms is too little")
    ]
    assert len(again.rows) == 4


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "has no report.json; remove it, and --resume makes it anew"),
        (lambda file: file.write_text("{"), "similar/report.json"),
    ],
)
def test_a_damaged_run_does_not_cost_the_others(copied, damage, words):
    found, output = copied
    damage(output / "runs" / "similar" / "report.json")
    report = drive.run(found, output, Quiet(), resume=True)
    assert [failure.run for failure in report.failures] == ["similar"]
    assert words in report.failures[0].error
    assert [row.run for row in report.rows] == ["distinct"] * 2
    lines = (output / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["distinct"] * 2


def test_runs_side_by_side_are_those_that_one_after_the_other_makes(swept, trained, tmp_path):
    _, _, done = swept
    file = written(tmp_path / "sweep.toml", trained, THREE.replace(WRONG, ""), bench=False)
    two = drive.run(grid.read(file, {}, []), tmp_path / "out", Quiet(), jobs=2)
    assert [row.run for row in two.rows] == [
        row.run for row in SweepReport.from_json(done.stdout).rows
    ]
    assert not two.failures
    assert all(row.timing is None for row in two.rows)
    made = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert made == ["distinct", "similar"]


def test_two_sweeps_do_not_share_a_folder(swept):
    file, output, _ = swept
    with (
        drive._alone(output),
        pytest.raises(UsageError, match="another sweep is at work"),
    ):
        drive.run(grid.read(file, {}, []), output, Quiet(), resume=True)


def test_a_folder_of_something_else_is_left_alone(sweep, tmp_path):
    with pytest.raises(OutputExistsError, match="it is no sweep; choose another --output"):
        drive.run(grid.read(sweep, {}, []), tmp_path, Quiet(), resume=True)


@pytest.mark.parametrize("left", [("runs", "logs"), ("runs", "logs", ".lock"), ()])
def test_a_sweep_that_could_not_begin_may_be_begun_again(tmp_path, left):
    for name in left:
        (tmp_path / name).touch() if name == ".lock" else (tmp_path / name).mkdir()
    assert drive._bare(tmp_path)
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / "a").mkdir()
    assert not drive._bare(tmp_path)


def test_a_dry_run_lists_the_runs_and_writes_nothing(sweep):
    done = capdeploy("sweep", sweep, "--dry-run", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 4
    assert [path.name for path in sweep.parent.iterdir()] == ["sweep.toml"]

"""The gate at the door: exit codes, streams, files."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from tests.commands import ROOT, capdeploy

QUICK = ("--runtimes", "onnxruntime", "--devices", "cpu", "--blocks", 5)
CALM = ("--min-effect", 0.5, "--max-noise", 0.9)
"""What no machine's noise reaches: five processes are then enough."""


def test_a_worse_fact_is_exit_one_in_every_format(run, tmp_path):
    sides = ("--base", run.bundle, "--head", run.folder / "baseline")
    done = capdeploy("gate", *sides, *QUICK, *CALM, "-f", "json", "--junit", tmp_path / "g.xml")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"]["kind"] == "regressed"
    assert any(line.startswith("MACs: ") for line in report["verdict"]["findings"])
    assert int(ET.parse(tmp_path / "g.xml").getroot().get("failures")) >= 1
    # Facts need no row: PyTorch's would run the bundle's own code, and nobody said that it may.
    shown = capdeploy("gate", *sides, "--runtimes", "pytorch", "-f", "md")
    assert shown.returncode == 1
    assert shown.stdout.startswith("### Regression: out/baseline against out/ratio-0.5")


def test_a_bundle_against_itself_is_not_red(run, tmp_path):
    log = tmp_path / "history.jsonl"
    done = capdeploy(
        "gate", "--base", run.bundle, "--head", run.bundle, *QUICK, *CALM, "--history", log
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smallest seen" in done.stdout
    assert json.loads(log.read_text())["kind"] == "gate"
    stored = capdeploy("gate", "--head", run.bundle, *QUICK, *CALM, "--history", log)
    assert stored.returncode == 0, stored.stderr
    assert len(log.read_text().splitlines()) == 2


def test_stored_numbers_of_another_machine_are_shown_and_not_red(run, tmp_path):
    log = tmp_path / "history.jsonl"
    asked = ("gate", "--head", run.bundle, *QUICK, *CALM, "--history", log, "-f", "md")
    first = capdeploy(*asked)
    assert first.returncode == 0, first.stderr
    assert "the history holds no earlier gate" in first.stdout
    entry = json.loads(log.read_text())
    entry["environment"]["cpu_model"] = "Abacus 3000"
    entry["fingerprint"] = "0" * 12
    log.write_text(json.dumps(entry) + "\n")
    done = capdeploy(*asked)
    assert done.returncode == 0
    assert done.stdout.startswith("### Not comparable")
    assert "Abacus 3000" in done.stdout
    assert len(log.read_text().splitlines()) == 2


def test_a_noisy_machine_is_exit_five_only_under_strict(run):
    sides = ("--base", run.bundle, "--head", run.bundle, *QUICK, "--max-noise", 1e-9)
    assert capdeploy("gate", *sides).returncode == 0
    done = capdeploy("gate", *sides, "--strict", "-f", "json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["verdict"]["kind"] == "inconclusive"


def test_a_calibration_is_stored(run, tmp_path):
    log = tmp_path / "history.jsonl"
    asked = ("gate", "--base", run.bundle, *QUICK, *CALM, "--calibrate", 2, "--history", log)
    done = capdeploy(*asked)
    assert done.returncode == 0, done.stderr
    assert "false alarms" in done.stdout
    entry = json.loads(log.read_text())
    assert entry["kind"] == "calibration"
    assert list(entry["noise"]) == ["onnxruntime cpu fp32 threads=1 batch=1"]


def test_a_calibration_without_a_row_is_no_success(run, tmp_path):
    log = tmp_path / "history.jsonl"
    asked = ("gate", "--base", run.bundle, "--runtimes", "pytorch", "--calibrate", 1)
    done = capdeploy(*asked, "--history", log)  # a factory's code is not run unasked
    assert done.returncode == 3, done.stderr
    assert "--trust-factory" in done.stdout
    assert not log.exists()


def test_a_reader_that_goes_away_costs_neither_files_nor_verdict(run, tmp_path):
    log = tmp_path / "history.jsonl"
    sides = ("--base", run.bundle, "--head", run.bundle, *QUICK, "--max-noise", 1e-9)
    words = map(str, ("gate", *sides, "--strict", "--history", log))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "capdeploy", *words], cwd=ROOT, stdout=gone,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--head", "x"), 2, "--base is missing"),
        (("--base", "x"), 2, "--head is missing"),
        (("--base", "x", "--head", "x"), 2, "x is not a bundle: no such file or folder"),
        (("--base", "x.onnx", "--head", "x.onnx"), 2, "x.onnx: no such file"),
        (("--base", "x", "--head", "x", "--min-effect", "5"), 2, "--min-effect"),
        (("--base", "x", "--head", "x", "--min-effect", "nan"), 2, "is not a finite number"),
        (("--base", "x", "--head", "x", "--max-growth", "inf"), 2, "is not a finite number"),
        (("--base", "x", "--head", "x", "--max-drop", "1"), 2, "--max-drop"),
        (("--base", "x", "--head", "x", "--profile", "moon"), 2, "moon"),
        (("--base", "x", "--head", "x", "--runtimes", "tflite"), 2, "tflite"),
        (("--base", "x", "--head", "x", "--junit", "no/g.xml"), 2, "there is no folder no"),
        (("--base", "x", "--head", "x", "--history", "."), 2, "is a folder; name a file"),
        (("--base", "x", "--head", "x", "--calibrate", "2"), 2, "name only --base"),
        (("--base", "x", "--calibrate", "2", "--strict"), 2, "judges nothing"),
        (("--base", "x", "--head", "x", "--blocks", "2"), 2, "--blocks"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, code, line):
    done = capdeploy("gate", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert line in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())

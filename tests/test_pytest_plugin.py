"""The plugin in a real pytest run of somebody else's repository."""

import shutil
import subprocess
import sys

import pytest

from capdeploy import pytest_plugin

TEST = """
def test_the_bundle_s_classes(bundle):
    assert len(bundle.manifest.classes) == 3

def test_speed(capdeploy_benchmark):
    assert capdeploy_benchmark("onnxruntime").shape == (1, 3)
"""


def outside(tmp_path, *arguments):
    (tmp_path / "test_models.py").write_text(TEST)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider",
         *map(str, arguments)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


def test_a_repository_gates_its_bundles(run, tmp_path):
    done = outside(
        tmp_path, "--capdeploy-base", run.folder / "baseline", "--capdeploy-head", run.bundle,
        "--capdeploy-runtimes", "onnxruntime", "--benchmark-json", tmp_path / "b.json",
    )  # fmt: skip
    # Head is the smaller network; its accuracy may be lower, which is then the only failure.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert (
        "latency[onnxruntime] PASSED" in done.stdout
        or "latency[onnxruntime] SKIPPED" in done.stdout
    )
    assert "fact[MACs] PASSED" in done.stdout, done.stdout
    assert "latency[onnxruntime] FAILED" not in done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert all("fact[accuracy]" in line for line in failed), done.stdout
    assert "fingerprint" in (tmp_path / "b.json").read_text()


def test_a_worse_fact_fails_with_one_line(run, tmp_path):
    done = outside(
        tmp_path, "--capdeploy-base", run.bundle, "--capdeploy-head", run.folder / "baseline",
        "--capdeploy-runtimes", "onnxruntime", "-k", "fact",
    )  # fmt: skip
    assert done.returncode == 1
    assert "MACs: " in done.stdout
    assert "Traceback" not in done.stdout


def test_without_options_nothing_is_added_and_the_fixtures_skip(tmp_path):
    done = outside(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped" in done.stdout
    assert "--capdeploy-head is not given" in done.stdout


def test_what_is_not_there_is_a_usage_error(tmp_path):
    done = outside(tmp_path, "--capdeploy-base", "no", "--capdeploy-head", "no")
    assert done.returncode == 4
    assert "not a bundle" in done.stderr


def test_numbers_of_another_machine_are_refused():
    mine = {"capdeploy": {"cpu model": "a", "cores": "2"}}
    same = {"machine_info": {"capdeploy": {"cpu model": "a", "cores": "2"}}}
    other = {"machine_info": {"capdeploy": {"cpu model": "b", "cores": "2"}}}
    compare = pytest_plugin.pytest_benchmark_compare_machine_info
    compare(None, None, mine, same)
    compare(None, None, mine, {"machine_info": {"node": "somebody else's benchmark"}})
    with pytest.raises(pytest.UsageError, match="cpu model is 'b' there and 'a' here"):
        compare(None, None, mine, other)


def test_a_damaged_bundle_is_refused_before_its_facts(run, tmp_path):
    shutil.copytree(run.bundle, tmp_path / "head")
    with (tmp_path / "head" / "labels.txt").open("a") as stream:
        stream.write("one more\n")
    done = outside(
        tmp_path, "--capdeploy-base", run.bundle, "--capdeploy-head", tmp_path / "head",
        "--capdeploy-runtimes", "onnxruntime", "-k", "fact",
    )  # fmt: skip
    assert done.returncode == 4
    assert "labels.txt" in done.stderr

"""``capdeploy doctor`` as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema

import capdeploy

ROOT = Path(capdeploy.__file__).parent.parent


def call(*words, code="from capdeploy.cli import main; main(sys.argv[1:])", env=None):
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}", "doctor", *words],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip


def test_it_answers_in_every_format_and_loads_no_torch():
    code = (
        "from capdeploy.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'openvino', 'onnxruntime'} & set(sys.modules), 'heavy'\n"
    )
    done = call("--quick", "-f", "json", code=code)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "schemas" / "doctor.json").read_text())
    jsonschema.validate(found, schema)
    assert found["noise_floor"] is None
    assert len(found["fingerprint"]) == 12
    shown = call("--quick", "-f", "md")
    assert shown.returncode == 0
    assert "### Runtimes" in shown.stdout
    assert "| smallest slowdown a gate can see | not measured |" in shown.stdout


def test_without_any_runtime_it_exits_3_and_names_the_command(tmp_path):
    """Packages of the same names that cannot be imported stand before the real ones."""
    for name in ("torch", "onnxruntime", "openvino"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')")
    done = call("--quick", "-f", "json", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert "no runtime works here" in done.stderr
    assert "pip install 'capdeploy[onnxruntime]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    states = json.loads(done.stdout)["runtimes"]
    assert all("does not load" in state["problem"] for state in states)

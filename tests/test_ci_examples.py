"""The ready-made CI files parse, their shell is sound, and their commands exist."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from capdeploy.cli import root

FOLDER = Path(__file__).parent.parent / "docs" / "ci"


def scripts():
    github = yaml.safe_load((FOLDER / "github-actions.yml").read_text())
    steps = github["jobs"]["gate"]["steps"]
    yield "github", "\n".join(step["run"] for step in steps if "run" in step)
    gitlab = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())
    yield "gitlab", "\n".join(gitlab["model-gate"]["script"])


def test_the_github_workflow_has_the_shape_that_github_wants():
    workflow = yaml.safe_load((FOLDER / "github-actions.yml").read_text())
    # YAML 1.1 reads the key `on` as true, and GitHub knows it.
    assert set(workflow) == {"name", True, "permissions", "jobs"}
    job = workflow["jobs"]["gate"]
    assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_the_gitlab_job_keeps_what_it_writes():
    job = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())["model-gate"]
    assert {"image", "script", "rules", "artifacts"} <= set(job)
    assert job["artifacts"]["reports"]["junit"] == "gate.xml"


@pytest.mark.parametrize(("name", "script"), list(scripts()))
def test_the_shell_is_sound(name, script):
    shell = shutil.which("bash")
    done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "script"), list(scripts()))
def test_every_command_and_option_exists(name, script):
    joined = script.replace("\\\n", " ")
    calls = [line.strip() for line in joined.splitlines() if line.strip().startswith("capdeploy ")]
    assert any(" gate " in call for call in calls)
    for call in calls:
        words = shlex.split(call.split("|")[0].split(">")[0])
        command = root.get_command(None, words[1])
        assert command is not None, words[1]
        known = {option for parameter in command.params for option in parameter.opts}
        asked = {word for word in words[2:] if word.startswith("-")}
        assert asked <= known, asked - known


def test_a_red_gate_is_red_in_gitlab_too(tmp_path):
    """The job shows its report and still ends with the gate's exit code."""
    script = dict(scripts())["gitlab"].splitlines()
    last = script[-1]
    stub = tmp_path / "capdeploy"
    stub.write_text("#!/bin/sh\necho report\nexit 1\n")
    stub.chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-c", last], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "report\n")

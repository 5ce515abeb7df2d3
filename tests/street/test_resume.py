"""A run that ends before its time goes on where it was, and ends as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capdeploy import bundle, pipeline, workplace
from capdeploy.errors import BudgetError, ConfigError, OutputExistsError, UsageError
from capdeploy.progress import Quiet
from capdeploy.stages import journal
from tests.commands import ROOT, base, capdeploy
from tests.conftest import recipe


class Stopping(Quiet):
    """Listens, writes down what it hears, and ends the run at a step, as Ctrl-C would."""

    def __init__(self, at=""):
        self.at, self.heard = at, []

    def step(self, name):
        self.heard.append(name)
        if self.at and name.startswith(self.at):
            raise KeyboardInterrupt

    def note(self, message):
        self.heard.append(message)


def same(one, other):
    """Two runs left the same networks, judged alike; only seconds may differ."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for entry in (path for path in one.iterdir() if path.is_dir()):
        for name in (bundle.WEIGHTS, bundle.PLAN, bundle.ANSWERS, bundle.GRAPH):
            assert (entry / name).read_bytes() == (other / entry.name / name).read_bytes()
        assert timeless(entry / bundle.METRICS) == timeless(other / entry.name / bundle.METRICS)


def timeless(file):
    metrics = json.loads(file.read_text())
    for epoch in (metrics["training"] or {}).get("epochs", ()):
        del epoch["seconds"]
    return metrics


def test_an_interrupted_run_goes_on(run, tmp_path):
    output, first, second = tmp_path / "out", Stopping("judge"), Stopping()
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(run.recipe, output, first)
    assert not output.exists()
    assert any("the same command with --resume" in line for line in first.heard)
    pipeline.compress(run.recipe, output, second, resume=True)
    assert "ratio-0.5 was finished by an earlier run" in second.heard
    assert not any(line.startswith("score") for line in second.heard)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    same(run.folder, output)


def test_the_trainings_of_all_steps_are_kept(trained, tmp_path):
    asked = recipe(trained, ratio=(0.5,), steps=2, epochs=2, score_images=64)
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(asked, tmp_path / "out", Stopping("judge"))
    slim = pipeline.compress(asked, tmp_path / "out", Quiet(), resume=True).models[1]
    assert [len(each.epochs) for each in (*slim.earlier, slim.training)] == [1, 1]


def test_a_run_that_has_finished_nothing_leaves_nothing(run, tmp_path):
    first = Stopping("export ratio-0.5")
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(run.recipe, tmp_path / "out", first)
    assert list(tmp_path.iterdir()) == []
    assert not any("--resume" in line for line in first.heard)


def test_a_killed_run_goes_on(trained, tmp_path):
    words = base(trained, "--ratio", "0.5,0.75", "--no-bench")
    command = [sys.executable, "-m", "capdeploy", *map(str, words), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if list(tmp_path.glob(f".out.partial-*/{journal.JOURNAL}/ratio-0.5/finished.json")):
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    again = capdeploy(*words, "-o", tmp_path / "out", "--resume")
    assert again.returncode == 0, again.stderr
    assert "ratio-0.5 was finished by an earlier run" in again.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert capdeploy("verify", tmp_path / "out").returncode == 0


@pytest.fixture
def stopped(trained, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(recipe(trained, epochs=0), output, Stopping("judge"))
    return output


def test_a_run_goes_on_only_with_what_it_was_asked_for(trained, stopped, tmp_path):
    with pytest.raises(ConfigError, match="asked for seed = 0, now for 1; leave out --resume"):
        pipeline.compress(recipe(trained, epochs=0, seed=1), stopped, Quiet(), resume=True)
    other = tmp_path / "other.safetensors"
    other.write_bytes(trained.read_bytes())
    moved = {"checkpoint": str(other), "epochs": 0}
    with pytest.raises(ConfigError, match="asked for checkpoint"):
        pipeline.compress(recipe(trained, **moved), stopped, Quiet(), resume=True)
    # Measuring comes after the networks: it may be asked for differently.
    pipeline.compress(recipe(trained, epochs=0, bench_seconds=1.0), stopped, Quiet(), resume=True)


def test_a_run_does_not_go_on_with_other_classes(trained, tmp_path):
    """The recipe is the same; what the file says that it names has changed."""
    names, output = tmp_path / "kept.txt", tmp_path / "out"
    names.write_text("7\n1\n4\n")
    words = recipe(trained, epochs=0, classes=(f"@{names}",))
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(words, output, Stopping("judge"))
    names.write_text("1\n7\n4\n")
    with pytest.raises(ConfigError, match=r"kept the classes 7, 1, 4 .* now 1, 7, 4 "):
        pipeline.compress(words, output, Quiet(), resume=True)


def test_without_the_flag_a_run_begins_anew_and_says_so(trained, stopped):
    say = Stopping()
    pipeline.compress(recipe(trained, epochs=0), stopped, say)
    assert any("--resume goes on with it" in line for line in say.heard)
    assert any(line.startswith("score") for line in say.heard)
    assert [path.name for path in stopped.parent.iterdir()] == ["out"]  # nothing of the first


@pytest.mark.parametrize("name", [f"{journal.JOURNAL}/ratio-0.5/cut.safetensors",
                                  f"ratio-0.5/{bundle.GRAPH}"])  # fmt: skip
def test_what_is_damaged_is_made_again(name, trained, stopped):
    [file] = stopped.parent.glob(f".out.partial-*/{name}")
    file.write_bytes(b"")
    say = Stopping()
    pipeline.compress(recipe(trained, epochs=0), stopped, say, resume=True)
    assert not any("was finished by" in line for line in say.heard)
    assert (stopped / "ratio-0.5" / bundle.GRAPH).stat().st_size > 1000


def test_nobody_takes_the_folder_of_a_run_that_works(tmp_path):
    with workplace.open_workplace(tmp_path / "out"):
        assert workplace.unfinished(tmp_path / "out", ".") is None
    assert workplace.unfinished(tmp_path / "nowhere" / "out", ".") is None


def test_of_two_who_go_on_one_is_told(tmp_path):
    gone = tmp_path / ".out.partial-gone"
    with (
        pytest.raises(UsageError, match="another run goes on with"),
        workplace.open_workplace(tmp_path / "out", adopt=gone),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_is_found_wherever_it_ran(tmp_path):
    """A container that is begun anew has another host name; the lock went with the process."""
    words = (
        "import os, pathlib, sys; from capdeploy import workplace\n"
        "with workplace.open_workplace(pathlib.Path(sys.argv[1])) as work:\n"
        "    (work / 'mark').touch(); print(work, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", words, str(tmp_path / "out")], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    work = Path(process.stdout.readline().strip())
    assert workplace.unfinished(tmp_path / "out", "mark") is None
    assert workplace.at_work(tmp_path / "out", "mark") == work
    process.kill()
    process.communicate()
    assert workplace.unfinished(tmp_path / "out", "other") is None
    assert workplace.at_work(tmp_path / "out", "mark") is None
    assert workplace.unfinished(tmp_path / "out", "mark") == work
    with workplace.open_workplace(tmp_path / "out", adopt=work) as here:
        assert here == work
        assert workplace.unfinished(tmp_path / "out", "mark") is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mark"]


def test_a_folder_without_a_lock_is_not_taken(tmp_path):
    (tmp_path / ".out.partial-x").mkdir()
    (tmp_path / ".out.partial-x" / "mark").touch()
    assert workplace.unfinished(tmp_path / "out", "mark") is None
    assert workplace.at_work(tmp_path / "out", "mark") is not None


def test_what_can_be_gone_on_from_outlives_a_move_that_fails(tmp_path, monkeypatch):
    # A rename that fails here takes a file system that is taken away under the run: the moment
    # between the last look at the output and the move cannot be hit from outside.
    def fails(work, output):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(output))

    monkeypatch.setattr(workplace, "_replace", fails)
    with (
        pytest.raises(OSError, match="busy"),
        workplace.open_workplace(
            tmp_path / "out", scrap="notes", salvage=lambda work: (work / "notes").is_dir()
        ) as work,
    ):
        (work / "notes").mkdir()
        (work / "notes" / "one").touch()
    assert workplace.unfinished(tmp_path / "out", "notes/one") == work


@pytest.mark.parametrize("place", [".", ".."])
def test_the_folder_that_one_is_in_is_not_replaced(place, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "in" / "recipe.toml").touch()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(OutputExistsError, match=r"the folder that this runs in; choose .*/?run$"):
        workplace.refuse_existing(Path(place), force=True)


def test_a_mount_is_not_replaced():
    with pytest.raises(
        OutputExistsError, match="/ cannot be replaced, a file system is mounted there"
    ):
        workplace.refuse_existing(Path("/"), force=True)


def test_a_whole_run_is_not_made_again(run):
    with pytest.raises(OutputExistsError, match="is whole; to measure it again: capdeploy bench"):
        pipeline.compress(run.recipe, run.folder, Quiet(), resume=True)


def test_what_is_out_of_reach_is_known_to_the_run_that_goes_on(trained, tmp_path):
    asked = recipe(trained, max_latency=("p90=0.1us",), epochs=0)
    with pytest.raises(KeyboardInterrupt):
        pipeline.compress(asked, tmp_path / "out", Stopping("judge"))
    report = pipeline.compress(asked, tmp_path / "out", Quiet(), resume=True)
    assert [line.split()[0] for line in report.out_of_reach] == ["latency-p90-0.0001ms"]
    with pytest.raises(BudgetError, match="cannot be met"):
        report.require_budgets()

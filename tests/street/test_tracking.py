"""Trackers: real ones, offline, and what happens when one fails."""

import sys
import warnings
from pathlib import Path

import pytest

from capdeploy import pipeline
from capdeploy.errors import ConfigError
from capdeploy.progress import Quiet
from capdeploy.trackers import TRACKERS
from capdeploy.tracking import Tracked, tracked
from tests.commands import base, capdeploy
from tests.conftest import recipe

EXPECTED = {"fine-tune ratio-0.5/validation_top1": 2, "fine-tune ratio-0.5/loss": 2,
            "ratio-0.5/top1": 1, "baseline/top1": 1, "baseline/macs": 1}  # fmt: skip


class Listening(Quiet):
    def __init__(self):
        self.heard = []

    def note(self, message):
        self.heard.append(message)


@pytest.fixture(scope="module")
def kept(trained, tmp_path_factory):
    """What one run leaves in all trackers, in a folder of its own."""
    folder = tmp_path_factory.mktemp("tracked")
    wanted = recipe(trained, track=TRACKERS.names(), track_folder=str(folder / "kept"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # W&B leaves sockets to its own process
        report = pipeline.compress(wanted, folder / "out", Quiet())
    return folder / "kept", report


def test_a_second_run_of_a_name_has_event_files_of_its_own(tmp_path):
    for _ in range(3):
        TRACKERS.load("tensorboard")(tmp_path, "out", {}).end(failed=False)
    names = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert names == ["out", "out-2", "out-3"]


def test_the_shelf():
    assert TRACKERS.names() == ("mlflow", "tensorboard", "wandb")


def test_tensorboard_has_the_curves(kept):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, report = kept
    events = EventAccumulator(str(folder / "tensorboard" / "out"))
    events.Reload()
    found = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    assert {name: len(found[name]) for name in EXPECTED} == EXPECTED
    epochs = report.models[1].training.epochs
    curve = found["fine-tune ratio-0.5/validation_top1"]
    assert [point.step for point in curve] == [1, 2]
    assert [point.value for point in curve] == pytest.approx(
        [epoch.validation_top1 for epoch in epochs]
    )
    assert found["ratio-0.5/top1"][0].value == pytest.approx(report.models[1].accuracy[-1].top1)


def test_mlflow_has_the_curves_in_its_local_store(kept):
    from mlflow import MlflowClient

    folder, report = kept
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("capdeploy")
        [run] = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, "fine-tune ratio-0.5/loss")
    assert run.info.run_name == "out"
    assert run.info.status == "FINISHED"
    assert run.data.params["strategy"] == "ocap"
    assert run.data.metrics["ratio-0.5/macs"] == report.models[1].after.macs
    assert [point.step for point in history] == [1, 2]


def test_wandb_kept_the_run_offline(kept):
    folder, _ = kept
    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    kept_bytes = file.read_bytes()
    assert b"ratio-0.5/worst_class_top1" in kept_bytes
    assert b"fine-tune ratio-0.5/validation_top1" in kept_bytes


class Breaking:
    """A real failure of a tracker: its disk is full, its server is gone."""

    def __init__(self, when):
        self.when, self.ended = when, []

    def log(self, values, step):
        if self.when == "log":
            raise ConnectionError("no route to host\nmore words")

    def end(self, *, failed):
        if self.when == "end":
            raise OSError(28, "No space left on device")
        self.ended.append(failed)


@pytest.mark.parametrize(("when", "said"), [("log", "no route to host"), ("end", "No space left")])
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(when, said):
    say, good = Listening(), Breaking("never")
    listener = Tracked(say)
    listener.begin("bad", lambda: Breaking(when))
    listener.begin("good", lambda: good)
    listener.step("fine-tune")
    for step in (1, 2):
        listener.measured({"loss": 1.0}, step)
    listener.end(failed=False)
    assert good.ended == [False]
    [note] = say.heard
    assert note.startswith("bad does not track this run any more: ")
    assert said in note
    assert "more words" not in note


def test_a_tracker_that_cannot_begin_does_not_stop_the_run(trained, tmp_path):
    (tmp_path / "file").write_text("where a folder should be")
    wanted = recipe(trained, track=("tensorboard",), track_folder=str(tmp_path / "file"))
    say = Listening()
    with tracked(wanted, "run", say) as listener:
        listener.measured({"loss": 1.0}, 1)
    assert any("tensorboard does not track this run" in line for line in say.heard)


def test_a_broken_library_of_a_tracker_does_not_stop_the_run(trained, tmp_path, monkeypatch):
    (tmp_path / "mlflow.py").write_text("raise RuntimeError('built for another processor')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "capdeploy.trackers.mlflow", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    say = Listening()
    with tracked(recipe(trained, track=("mlflow",), track_folder=str(tmp_path)), "run", say):
        pass
    assert say.heard == ["mlflow does not track this run: built for another processor"]


def test_a_run_that_fails_is_closed_as_failed(trained, tmp_path):
    from mlflow import MlflowClient

    wanted = recipe(trained, track=("mlflow",), track_folder=str(tmp_path))
    with pytest.raises(ZeroDivisionError), tracked(wanted, "run", Quiet()):
        raise ZeroDivisionError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        [run] = client.search_runs([client.get_experiment_by_name("capdeploy").experiment_id])
    assert run.info.status == "FAILED"


def test_an_unknown_tracker_is_refused_before_any_work(trained, tmp_path):
    done = capdeploy(*base(trained), "-o", tmp_path / "out", "--track", "wandbb")
    assert done.returncode == 2
    assert "unknown tracker 'wandbb'; did you mean wandb?" in done.stderr
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError), tracked(recipe(trained, track=("x",)), "run", Quiet()):
        pass


def test_without_trackers_nothing_is_between(trained):
    say = Quiet()
    with tracked(recipe(trained), "run", say) as listener:
        assert listener is say
    assert not Path("capdeploy-tracking").exists()

"""A memory budget is met by measuring fresh processes; where it cannot be met, it is said why."""

import json

import pytest
import torch

from capdeploy.bench import memory
from capdeploy.errors import ConfigError
from capdeploy.export import graph
from capdeploy.progress import Quiet
from capdeploy.prune import groups
from capdeploy.prune.ground import Ground
from capdeploy.stages import search
from capdeploy.stages.place import Place
from capdeploy.train import head
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.report import Settings
from tests import nets
from tests.commands import base, capdeploy
from tests.conftest import SUBSET, shaken, wrap
from tests.prune.test_groups_and_cut import scores_for

PLACE = Place("onnxruntime", "cpu", 1)
SETTINGS = Settings(bundle="candidate", runtime="onnxruntime", device="cpu", threads=1)


@pytest.fixture(scope="module")
def large():
    """A network whose weights (some 40 MiB) stand out from what the runtime takes by itself."""
    torch.manual_seed(0)
    return wrap(shaken(nets.Chain(width=768)), "tests.nets:Chain")


def test_memory_counts_the_weights_and_what_was_there_before(large, tmp_path):
    graph.export(large, tmp_path / "large.onnx", {})
    before, peak = memory.peak(tmp_path / "large.onnx", SETTINGS)
    weights = large.geometry.cost().parameters * 4 / (1 << 20)
    assert 10 < before < peak - 0.8 * weights
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"broken.onnx is not an ONNX model"):
        memory.peak(tmp_path / "broken.onnx", SETTINGS)


def test_a_memory_is_met_from_below(large, tmp_path):
    narrow = head.cut(large, SUBSET)
    ground = Ground(
        scores_for(narrow), groups.find(narrow), narrow.geometry, head.cut_of(large, SUBSET),
        large.geometry.cost(),
    )  # fmt: skip
    graph.export(large, tmp_path / "whole.onnx", {})
    before, peak = memory.peak(tmp_path / "whole.onnx", SETTINGS)
    most = before + 0.5 * (peak - before)
    budget = Budget(limit=Limit(quantity="rss", most=most, share=False), allocation="global")
    said = []

    class Heard(Quiet):
        def note(self, message):
            said.append(message)

    plan = search.meet(large, ground, narrow, budget, PLACE, cache=tmp_path / "kept", say=Heard())
    found = plan.search
    assert found.unit == "MiB"
    assert found.result.measured <= most
    assert found.result.measured >= 0.85 * most
    assert plan.after.parameters < plan.before.parameters
    assert "peak RSS in onnxruntime" in found.sentence
    assert "MiB" in said[-1]
    again = search.meet(large, ground, narrow, budget, PLACE, cache=tmp_path / "kept", say=Quiet())
    assert all(trial.cached for trial in again.search.trials)
    assert again.layers == plan.layers


def test_less_than_the_runtime_itself_takes_is_refused_with_the_reason(trained, tmp_path):
    done = capdeploy(*base(trained), "--max-rss", "10MiB", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.strip().splitlines()[-1]
    assert "rss-10MiB cannot be met" in line
    assert "Python and the runtime" in line
    assert not (tmp_path / "out").exists()


def test_a_memory_larger_than_the_network_takes_cuts_nothing(trained):
    done = capdeploy(*base(trained), "--max-rss", "100%", "--dry-run", "-f", "json")
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)
    assert plan["search"]["unit"] == "MiB"
    assert plan["after"] == plan["before"]


def test_a_latency_and_a_memory_are_not_searched_at_once(trained):
    done = capdeploy(*base(trained), "--max-rss", "90%", "--speedup", "2x", "--together",
                     "--dry-run")  # fmt: skip
    assert done.returncode == 2
    assert "measured at most" in done.stderr

"""The size of a graph is known before it is made, from one export of the whole network."""

import json

import pytest
import torch

from capdeploy.export import graph, overhead
from capdeploy.export.simplify import simplify
from capdeploy.prune import apply, ledger
from capdeploy.zoo import SOURCES
from tests import nets
from tests.commands import base, capdeploy
from tests.conftest import shaken, wrap
from tests.prune.test_groups_and_cut import draw


def torchvision(name, **arguments):
    return SOURCES.load("torchvision").build(name, arguments, 10)


NETWORKS = {
    "biases and no norms": nets.Chain,
    "shortcuts": nets.Residual,
    "convolutions in groups": nets.Grouped,
    "norms in front, not folded": nets.PreActivation,
    "depthwise": lambda: torchvision("mobilenet_v2", width_mult=0.25),
    "a shuffle, whose shape is in the graph": lambda: torchvision("shufflenet_v2_x0_5"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_one_export_tells_the_size_at_every_width(name, tmp_path):
    torch.manual_seed(0)
    make = NETWORKS[name]
    model = wrap(shaken(make()), size=16 if make in vars(nets).values() else 32)
    for ratio in (0.4, 0.8):
        narrow, plan = draw(model, ratio)
        facts = {"told": "something"}
        each = overhead.node_bytes(narrow, facts, seconds=60)
        cut = apply.cut(model, plan)
        path, simpler = tmp_path / f"{ratio}.onnx", tmp_path / f"{ratio}-simpler.onnx"
        graph.export(cut, path, facts)
        assert simplify(path, simpler, seconds=60).applied
        graph.finish(simpler, facts)
        guessed = ledger.Meter("size", node_bytes=each).whole(cut.geometry)
        assert guessed == pytest.approx(simpler.stat().st_size, rel=0.004, abs=150)
        assert each > 200


@pytest.mark.parametrize("asked", ["60%", "30%", "30kB"])
def test_a_size_is_met_by_the_file_that_is_shipped(trained, tmp_path, asked):
    out = tmp_path / "out"
    done = capdeploy(*base(trained), "--max-size", asked, "--align", "1", "--epochs", "0",
                     "--tolerance", "0.15", "--no-bench", "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    whole, cut = (each["artifact"]["size_bytes"] for each in report["models"])
    assert cut == next(out.glob("size-*/model.onnx")).stat().st_size
    most = float(asked[:-1]) / 100 * whole if asked.endswith("%") else 30_000
    assert 0.85 * most <= cut <= most  # of a network so small, a channel is several percent

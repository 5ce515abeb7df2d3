"""The size of a graph is known before it is made, from one export of the whole network."""

import json

import pytest
import torch

from capdeploy import rebuild
from capdeploy.export import filesize, graph
from capdeploy.export.simplify import simplify
from capdeploy.prune import apply, blocks, ledger
from capdeploy.values.report import RunReport
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


def meter(model, facts):
    """Know sizes from one export of the whole network."""
    size = filesize.file_size(model, facts, seconds=60)
    return ledger.Meter("size", besides=size - ledger.Meter("size").whole(model.geometry))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_export_tells_the_size_at_every_width(name, tmp_path):
    torch.manual_seed(0)
    make = NETWORKS[name]
    model = wrap(shaken(make()), size=16 if make in vars(nets).values() else 32)
    for ratio in (0.4, 0.8):
        narrow, plan = draw(model, ratio)
        facts = {"told": "something"}
        cut = apply.cut(model, plan)
        path, simpler = tmp_path / f"{ratio}.onnx", tmp_path / f"{ratio}-simpler.onnx"
        graph.export(cut, path, facts)
        assert simplify(path, simpler, seconds=60).applied
        graph.finish(simpler, facts)
        guessed = meter(narrow, facts).whole(cut.geometry)
        assert guessed == pytest.approx(simpler.stat().st_size, rel=0.004, abs=150)


def test_what_a_file_says_of_itself_does_not_go_with_a_block(tmp_path):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Blocks()))
    facts = {"labels": "x" * 20_000}
    gone = blocks.find(model)[0]
    fewer = model.copy_module()
    setattr(fewer.stage, gone.name.rpartition(".")[2], rebuild.REMAINS[gone.becomes]())
    path = tmp_path / "fewer.onnx"
    graph.export(model.with_module(fewer), path, facts)
    guessed = meter(model, facts).whole(model.geometry.without([gone]))
    assert guessed == pytest.approx(path.stat().st_size, rel=0.02)


@pytest.mark.parametrize(
    ("asked", "more"),
    [("60%", ()), ("30%", ()), ("30kB", ()), ("30kB", ("--reject-class",)), ("100%", ())],
)
def test_a_size_is_met_by_the_file_that_is_shipped(trained, tmp_path, asked, more):
    out = tmp_path / "out"
    done = capdeploy(*base(trained), "--max-size", asked, "--align", "1", "--epochs", "0",
                     "--tolerance", "0.15", "--no-bench", *more, "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    whole, cut = (each["artifact"]["size_bytes"] for each in report["models"])
    assert cut == next(out.glob("size-*/model.onnx")).stat().st_size
    if asked == "100%":  # the same graph, with another budget's words in it
        assert cut <= report["models"][1]["max_bytes"] < whole + 100
        return
    most = float(asked[:-1]) / 100 * whole if asked.endswith("%") else 30_000
    assert 0.85 * most <= cut <= most  # of a network so small, a channel is several percent


def test_a_graph_that_is_larger_than_was_asked_for_is_named(run):
    metrics = RunReport.from_json((run.folder / "report.json").read_text()).models[1]
    assert metrics.unmet is None
    size = metrics.artifact.size_bytes
    assert metrics.model_copy(update={"max_bytes": size}).misses == ()
    (line,) = metrics.model_copy(update={"max_bytes": size - 1}).misses
    assert line == f"ratio-0.5 has {size:,} bytes, {size - 1:,} are allowed; ask for a little less"

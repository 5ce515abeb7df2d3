"""A candidate's graph, filled in, is the one that an export would write; or it is exported."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torchvision import models

from capdeploy.export import graph, skeleton
from capdeploy.export.candidates import Writer
from capdeploy.prune import apply
from tests import nets
from tests.conftest import SUBSET, shaken, wrap
from tests.prune.test_groups_and_cut import draw

NETWORKS = {
    "chain": nets.Chain,  # a flatten of four positions a channel
    "residual": nets.Residual,
    "1x1 convolution as a head": nets.ConvHead,
    "convolutions in groups": nets.Grouped,
    "normalised before it is convolved": nets.PreActivation,
    "squeezenet": lambda: models.squeezenet1_1(num_classes=10),
}


def pair(make, ratio=0.6):
    """A head-cut network and one with fewer filters."""
    torch.manual_seed(0)
    size = 16 if make in vars(nets).values() else 32
    model = wrap(shaken(make()), size=size)
    narrow, plan = draw(model, ratio)
    return narrow, apply.cut(model, plan)


def operators(path):
    inner = onnx.load(path).graph
    groups = [
        attribute.i for node in inner.node for attribute in node.attribute
        if attribute.name == "group"
    ]  # fmt: skip
    return [node.op_type for node in inner.node], groups


def weights(path):
    """Every tensor of floats, by its bytes."""
    stored = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    return Counter((each.shape, each.tobytes()) for each in stored if each.dtype == np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_filled_graph_is_the_exported_one(name, tmp_path):
    whole, cut = pair(NETWORKS[name])
    filled, exported = tmp_path / "filled.onnx", tmp_path / "exported.onnx"
    form = skeleton.of(whole)
    assert skeleton.fill(form, cut, filled)
    graph.export(cut, exported, {})
    assert operators(filled) == operators(exported)
    assert weights(filled) == weights(exported)


def counted(monkeypatch):
    """Count exports: no graph tells how often the exporter ran, which runs all the same."""
    seen, export = [], graph.exported

    def counting(model, **options):
        seen.append(model)
        return export(model, **options)

    monkeypatch.setattr(graph, "exported", counting)
    return seen


def answers(path, model):
    """Whether a graph answers as the network does."""
    inputs = model.example(3)
    (found,) = graph.hearing(onnx.load(path), [graph.OUTPUT])(inputs.numpy())
    return torch.allclose(torch.from_numpy(found), model.module(inputs), atol=1e-4)


def test_networks_of_other_widths_are_not_exported_again(tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    writer = Writer()
    for number, ratio in enumerate((0.0, 0.3, 0.8)):
        _, cut = pair(nets.Residual, ratio)
        writer.write(cut, tmp_path / f"{number}.onnx")
        assert answers(tmp_path / f"{number}.onnx", cut)
    assert len(seen) == 1


def test_a_network_of_other_layers_is_exported_and_kept_beside(tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    writer = Writer()
    for make in (nets.Residual, nets.Chain, nets.Residual, nets.Chain):
        _, cut = pair(make)
        writer.write(cut, tmp_path / "x.onnx")
        assert answers(tmp_path / "x.onnx", cut)
    assert len(seen) == 2


class Widths(nets.ConvHead):
    """Says how many channels there are."""

    def forward(self, images):
        maps = self.features(images)
        shape = (len(maps), self.features[2].out_channels, *maps.shape[2:])
        return self.classifier(maps.reshape(shape)).mean(dim=(2, 3))


def test_where_a_graph_holds_widths_the_network_is_exported(tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    whole, cut = wrap(Widths()), wrap(Widths())
    cut.module.features[2] = torch.nn.Conv2d(16, 8, 3)
    cut.module.classifier = torch.nn.Conv2d(8, 10, 1)
    assert not skeleton.fill(skeleton.of(whole), cut, tmp_path / "x.onnx")
    writer = Writer()
    for model in (whole, cut, cut):
        writer.write(model, tmp_path / "x.onnx")
        assert answers(tmp_path / "x.onnx", model)
    assert len(seen) == 4


def test_a_graph_that_answers_otherwise_is_not_used(tmp_path):
    """The operators do not say what they are scaled by; only the answers do."""

    class Scaled(nets.ConvHead):
        factor = 1.0

        def forward(self, images):
            return self.factor * super().forward(images)

    whole, cut = pair(Scaled)
    cut.module.factor = 1.5
    form = skeleton.of(whole)
    assert not skeleton.fill(form, cut, tmp_path / "x.onnx")
    cut.module.factor = 1.0
    assert skeleton.fill(form, cut, tmp_path / "x.onnx")


def test_another_number_of_outputs_fits_too(tmp_path):
    torch.manual_seed(0)
    model = wrap(shaken(nets.Chain()))
    narrow, _ = draw(model, 0.0)
    assert model.trace.outputs != narrow.trace.outputs == len(SUBSET.kept)
    assert skeleton.fill(skeleton.of(model), narrow, tmp_path / "x.onnx")
    assert answers(tmp_path / "x.onnx", narrow)


def test_a_skeleton_is_not_altered_by_filling(tmp_path):
    whole, cut = pair(nets.Residual)
    form = skeleton.of(whole)
    before = form.graph.SerializeToString()
    assert skeleton.fill(form, cut, tmp_path / "x.onnx")
    assert form.graph.SerializeToString() == before
    assert not skeleton.fill(replace(form, names=frozenset()), cut, tmp_path / "x.onnx")

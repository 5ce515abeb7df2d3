"""Weights into an architecture: what may differ, what may not, and what is left out."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from capdeploy import fit, rebuild
from capdeploy.errors import ArchitectureError, CheckpointError
from capdeploy.values.checkpoint import Architecture
from tests import nets

ARCHITECTURE = Architecture.parse("tests.nets:Residual")
FILE = Path("weights.pth")


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nets.Residual().state_dict()


def test_weights_become_the_network_s_own_without_a_copy(state):
    found = fit.fit(state, ARCHITECTURE, FILE)
    name, value = next(iter(found.module.state_dict().items()))
    assert value.data_ptr() == state[name].data_ptr()
    assert all(parameter.requires_grad for parameter in found.module.parameters())
    assert (found.unused, found.absent) == ((), ())
    assert not found.module.training


ODD = {
    "sparse": lambda value: value.to_sparse(),
    "complex": lambda value: value.to(torch.complex64),
    "whole-number": lambda value: value.to(torch.int32),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_refused_by_what_they_are(state, kind):
    state["conv1.weight"] = ODD[kind](state["conv1.weight"])
    with pytest.raises(
        CheckpointError, match=rf"1 of another kind, first conv1.weight: found {kind}"
    ):
        fit.fit(state, ARCHITECTURE, FILE)


def test_shapes_without_values_are_refused(state):
    state["conv1.weight"] = state["conv1.weight"].to("meta")
    with pytest.raises(CheckpointError, match=r"conv1.weight has a shape and no values"):
        fit.fit(state, ARCHITECTURE, FILE)


def test_what_differs_is_refused_unless_it_is_named(state):
    state["extra.weight"] = torch.zeros(2)
    del state["conv1.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 missing, first conv1.weight; 1 unexpected, first"
    ):
        fit.fit(state, ARCHITECTURE, FILE)
    found = fit.fit(state, ARCHITECTURE, FILE, ("extra.*", "conv1.*"))
    assert found.unused == ("extra.weight",)
    assert found.absent == ("conv1.weight",)
    assert all(bool(value.isfinite().all()) for value in found.module.state_dict().values())


@pytest.mark.filterwarnings("ignore")
def test_auxiliary_heads_are_left_out_and_named():
    whole = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    found = fit.fit(whole.state_dict(), Architecture.parse("googlenet"), FILE)
    assert all(name.startswith(("aux1.", "aux2.")) for name in found.unused)
    assert found.unused
    assert not any(isinstance(part, type(whole.aux1)) for part in found.module.modules())


def test_tied_parameters_stay_tied():
    found = fit.fit(nets.Tied().state_dict(), Architecture.parse("tests.nets:Tied"), FILE).module
    with torch.no_grad():
        found.one.weight.add_(1)
    assert torch.equal(found.one.weight, found.two.weight)
    copied = copy.deepcopy(found)  # in which what only shared memory would part
    assert copied.one.weight is copied.two.weight
    whole = sum(value.numel() for value in nets.Tied().parameters())
    assert sum(value.numel() for value in copied.parameters()) == whole


def test_what_a_factory_froze_or_made_double_is_as_any_other():
    state = nets.frozen().state_dict()
    found = fit.fit(state, Architecture.parse("tests.nets:frozen"), FILE).module
    assert all(value.requires_grad for value in found.parameters())
    assert {value.dtype for value in found.parameters()} == {torch.float32}


def test_a_start_from_weights_with_auxiliary_heads_leaves_those_out():
    architecture = Architecture.parse("googlenet")
    module = torchvision.models.googlenet(num_classes=4, aux_logits=False, init_weights=False)
    state = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    state["aux1.conv.conv.weight"] = torch.ones(1)
    assert fit.load(module, state, architecture, FILE) == ()
    assert not any(value.any() for value in module.state_dict().values())


def test_counters_that_were_cast_with_the_weights_are_no_obstacle(state):
    halved = {name: value.half() for name, value in state.items()}
    counters = [name for name in halved if name.endswith("num_batches_tracked")]
    assert counters
    found = fit.fit(halved, ARCHITECTURE, FILE)
    assert (found.unused, found.absent) == ((), ())
    assert all(found.module.state_dict()[name].dtype == torch.int64 for name in counters)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg"])
def test_no_arguments_make_timm_read_another_file(key):
    given = Architecture.parse("timm:resnet18").model_copy(update={"arguments": {key: "x.pth"}})
    with pytest.raises(ArchitectureError, match=f"{key} would read weights from elsewhere"):
        rebuild.build(given, 2)


def test_a_file_of_the_user_s_may_hold_data_classes(tmp_path):
    (tmp_path / "json.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\n"
        "class Sizes:\n"
        "    width: int = 4\n"
        "def make(num_classes=3):\n"
        "    return nn.Sequential(nn.Conv2d(3, Sizes().width, 1), nn.Flatten(),\n"
        "                         nn.LazyLinear(num_classes))\n"
    )
    made = rebuild.build(Architecture.parse(f"{tmp_path / 'json.py'}:make"), 2)
    assert made[0].out_channels == 4
    assert "dumps" in vars(sys.modules["json"])  # a file of that name hides no package

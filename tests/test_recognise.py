"""Architectures found by their weights, and `inspect` of a checkpoint."""

import json

import pytest
import torch
import torchvision

from capdeploy.errors import ArchitectureError
from capdeploy.rebuild import build
from capdeploy.recognise import recognise
from capdeploy.values.checkpoint import Architecture
from tests.commands import capdeploy


def state_of(name, outputs):
    # GoogLeNet and Inception draw their fresh weights slowly unless they are told not to.
    slow = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    return torchvision.models.get_model(name, num_classes=outputs, **slow).state_dict()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_1", "googlenet", "densenet121", "regnet_y_400mf"],
)
def test_networks_are_found_with_any_number_of_outputs(name):
    assert recognise(state_of(name, 7)) == Architecture.parse(name)


def test_the_cifar_networks_are_found():
    for name in ("cifar_resnet:resnet20", "cifar_resnet:resnet56"):
        architecture = Architecture.parse(name)
        assert recognise(build(architecture, 3).state_dict()) == architecture


def test_a_foreign_network_is_refused_with_the_nearest():
    state = state_of("resnet18", 7)
    del state["layer4.1.bn2.bias"]
    with pytest.raises(ArchitectureError, match=r"the nearest is resnet18, which has \d+ of its"):
        recognise(state)
    with pytest.raises(ArchitectureError, match=r"its first tensor is mine; name yours with"):
        recognise({"mine": torch.ones(3, 3)})


def test_inspect_shows_a_checkpoint(tmp_path):
    torch.save(state_of("resnet18", 7), tmp_path / "w.pth")
    done = capdeploy("inspect", tmp_path / "w.pth", "--input-size", 32, "-f", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["recognised"]
    assert shown["checkpoint"]["architecture"]["name"] == "resnet18"
    assert shown["checkpoint"]["outputs"] == 7
    assert shown["cost"]["macs"] > 3e7
    assert shown["groups"] == 12
    table = capdeploy("inspect", tmp_path / "w.pth", "--input-size", 32, "--arch", "resnet18")
    assert "groups that can be cut" in table.stdout
    assert "found by" not in table.stdout


def test_inspect_refuses_in_one_line(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    torch.save(state_of("resnet18", 7), tmp_path / "w.pth")
    for arguments, line in (
        (("page.pth",), "an HTML page"),
        (("none.pth",), "none.pth"),
        (("w.pth", "--arch", "resnet34"), "does not fit resnet34"),
        (("w.pth", "--state-key", "ema"), "has no 'ema'"),
    ):
        done = capdeploy("inspect", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert line in done.stderr.strip().splitlines()[-1]
        assert done.stdout == ""

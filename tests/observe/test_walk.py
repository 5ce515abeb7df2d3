"""A network walked piece by piece reads in front of each layer what a whole pass reads there."""

import pytest
import torch
from torch import nn

from capdeploy.errors import ArchitectureError
from capdeploy.observe.taps import tapped
from capdeploy.observe.trace import trace
from capdeploy.observe.walk import Walk
from capdeploy.zoo import SOURCES
from tests import nets
from tests.conftest import shaken


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 3, 16, 16, generator=generator) for _ in range(count)]
    return images, [lambda batch=batch: batch.clone() for batch in images]


def read_by_a_whole_pass(network, layer, images):
    caught = []

    def hook(name, module, inputs, output):
        caught.append(inputs[0].clone())

    with torch.no_grad(), tapped(network, [layer], hook):
        network(images)
    return caught[0]


@pytest.mark.parametrize("room", [0, 3000, 1 << 30])
@pytest.mark.parametrize("kind", ["Chain", "Residual", "ConvHead", "Grouped", "Deciding"])
def test_every_layer_reads_and_answers_what_it_does_in_a_whole_pass(kind, room):
    network = shaken(getattr(nets, kind)()).eval()
    seen = trace(network, torch.randn(2, 3, 16, 16))
    images, made = batches()
    walk, passing = Walk(network, made, room), Walk(network, made, room)
    flags = [getattr(layer, "inplace", None) for layer in network.modules()]
    for layer in seen.filters:
        if seen.calls[layer] > 1:
            continue
        for number, batch in enumerate(images):
            expected = read_by_a_whole_pass(network, layer, batch)
            met, (passed, answer) = walk.at(layer, number), passing.through(layer, number)
            assert torch.equal(met.read, expected)
            assert torch.equal(passed.read, expected)
            assert (met.beside is None) == (passed.beside is None)
            assert met.beside is None or torch.equal(met.beside, passed.beside)
            assert torch.equal(answer, output_of(network, layer, batch))
            for each in (walk, passing):
                assert sum(stand.size for stand in each._stands) == each._used <= room
    assert [getattr(layer, "inplace", None) for layer in network.modules()] == flags
    assert torch.is_grad_enabled()


def test_through_every_layer_each_runs_once():
    network = shaken(nets.Blocks()).eval()
    images, made = batches(1)
    walk = Walk(network, made)
    ran = []
    layers = trace(network, images[0]).filters
    with tapped(network, layers, lambda name, *_: ran.append(name)):
        for layer in layers:
            walk.through(layer, 0)
    assert ran == list(layers)


class Aliased(nn.Module):
    """An activation in place changes what the shortcut adds; pieces cannot know that."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, images):
        x = self.first(images)
        return self.head((self.last(self.relu(x)) + x).mean(dim=(2, 3)))


class Overwriting(Aliased):
    """A function that overwrites: run again from a remembered value, it would act twice."""

    def forward(self, images):
        x = torch.sin_(self.first(images))
        return self.head(self.last(x).mean(dim=(2, 3)))


class Optional(Aliased):
    """A further argument that is usually left out."""

    def forward(self, images, other=None):
        x = self.first(images)
        if other is not None:
            x = x + self.first(other)
        return self.head(self.last(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [Aliased, Overwriting, Optional])
def test_what_cannot_be_taken_apart_is_run_from_the_start(kind):
    torch.manual_seed(0)
    network = kind().eval()
    images, made = batches(1)
    walk = Walk(network, made)
    for layer in ("first", "last", "head"):
        for _ in range(2):
            assert torch.equal(
                walk.at(layer, 0).read, read_by_a_whole_pass(network, layer, images[0])
            )
    assert walk._places == {}


def test_weights_may_change_behind_the_layer_that_is_reached():
    network = shaken(nets.Residual()).eval()
    layers = trace(network, torch.randn(2, 3, 16, 16)).filters
    images, made = batches(2)
    walk = Walk(network, made)
    for layer in layers:
        for number in (0, 1) if layer != layers[1] else (0,):  # one batch may stay behind
            assert torch.equal(
                walk.at(layer, number).read, read_by_a_whole_pass(network, layer, images[number])
            )
        with torch.no_grad():
            network.get_submodule(layer).weight.mul_(1.1)


def test_a_walk_that_remembers_makes_each_batch_once():
    network = shaken(nets.Chain()).eval()
    images, _ = batches(1)
    asked = []

    def make():
        asked.append(1)
        return images[0]

    walk = Walk(network, [make])
    for layer in trace(network, images[0]).filters:
        walk.at(layer, 0)
    assert len(asked) == 2  # once to see whether the network can be taken apart


def output_of(network, layer, images):
    caught = []

    def hook(name, module, inputs, output):
        caught.append(output.clone())

    with torch.no_grad(), tapped(network, [layer], hook):
        network(images)
    return caught[0]


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_the_end_of_a_branch_meets_what_it_is_added_to(room):
    network = shaken(nets.Blocks()).eval()
    images, made = batches(2)
    walk = Walk(network, made, room)
    for block in ("stage.0", "stage.1", "stage.2"):
        for number, batch in enumerate(images):
            assert walk.at(f"{block}.conv1", number).beside is None
            expected = read_by_a_whole_pass(network, f"{block}.conv1", batch)
            assert torch.equal(walk.at(f"{block}.conv2", number).beside, expected)
    assert walk.at("head", 0).beside is None


def test_of_two_convolutions_that_are_added_the_later_one_knows():
    """A ResNet's shortcut convolution runs after its branch, so it makes up for both."""
    torch.manual_seed(0)
    network = shaken(SOURCES.load("torchvision").build("resnet18", {}, 10)).eval()
    images, made = batches(1)
    walk = Walk(network, made)
    assert walk.at("layer2.0.conv2", 0).beside is None
    found = walk.at("layer2.0.downsample.0", 0).beside
    assert torch.equal(found, output_of(network, "layer2.0.bn2", images[0]))


def test_a_shortcut_through_operations_without_weights_is_known():
    """An option-A shortcut is written as a module that runs after the branch."""
    torch.manual_seed(0)
    network = shaken(SOURCES.load("cifar_resnet").build("resnet20", {}, 10)).eval()
    images, made = batches(1)
    walk = Walk(network, made)
    found = walk.at("layer2.0.conv2", 0).beside
    assert torch.equal(found, output_of(network, "layer2.0.shortcut", images[0]))


class Scaled(nn.Module):
    """Sums that are no plain sums, and a module whose name says it is one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.fourth = (
            nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        )  # fmt: skip
        self.add = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        x = torch.add(images, self.first(images), alpha=2)
        x = self.add(self.second(x))
        x = self.third(x) + 1.0
        return self.head((self.fourth(x) + x).mean(dim=(2, 3)))


def test_only_plain_sums_of_two_values_count():
    _, made = batches(1)
    walk = Walk(Scaled().eval(), made)
    found = {name: walk.at(name, 0).beside for name in ("first", "second", "third", "fourth")}
    assert [name for name, value in found.items() if value is not None] == ["fourth"]


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images):
        images -= 0.5
        return self.head(self.conv(images).mean(dim=(2, 3)))


def test_a_network_that_changes_its_input_is_refused():
    """It is shown the same tensor many times, and would see another image each time."""
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    with pytest.raises(ArchitectureError, match="changes its input in place"):
        trace(InPlace().eval(), images)
    assert torch.equal(images, before)

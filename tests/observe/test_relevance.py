"""Relevance: conserved, known by hand on a small network, and as a well-known library has it."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.errors import ArchitectureError
from capdeploy.observe.fold import fold
from capdeploy.observe.relevance import Explainer
from capdeploy.observe.rules import Rules
from capdeploy.observe.trace import trace
from capdeploy.zoo import SOURCES
from tests import nets
from tests.conftest import shaken

BOX = ((-2.0,) * 3, (2.0,) * 3)


def example(size=64, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 4 - 2


def settled(network):
    """Give a fresh network the batch-norm statistics of some images, as training would."""
    network.train()
    with torch.no_grad():
        network(example(64, 16))
    return network.eval()


def without_biases(network, images):
    """Fold batch normalisation and take every bias away, so that nothing can absorb relevance."""
    network = fold(network, trace(network, images), images)
    for layer in network.modules():
        if getattr(layer, "bias", None) is not None:
            layer.bias.data.zero_()
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.zero_()
    return network


@pytest.mark.parametrize(
    "name", ["vgg16_bn", "resnet18", "mobilenet_v2", "densenet121", "googlenet"]
)
def test_relevance_is_conserved(name):
    torch.manual_seed(0)
    arguments = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    made = settled(SOURCES.load("torchvision").build(name, arguments, 10))
    images = example()
    network = without_biases(made, images)
    targets = network(images).argmax(dim=1)
    explainer = Explainer(network, trace(network, images), Rules(bounds=BOX), images)
    found = explainer.explain(images, targets, to_input=len(images))
    assert found.inputs.shape == images.shape
    assert abs(found.absorbed) < 1e-3
    assert set(found.layers) == set(trace(network, images).filters)


@pytest.mark.parametrize("size", [64, 32])  # at 32 the last gates and signals are a single pixel
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_gates_and_splits_are_walked_through(name, size):
    """With biases some relevance is absorbed; what the layers are given is finite and not lost."""
    torch.manual_seed(0)
    network = settled(SOURCES.load("torchvision").build(name, {}, 10))
    images = example(size)
    seen = trace(network, images)
    explainer = Explainer(network, seen, Rules(), images)
    found = explainer.explain(images, network(images).argmax(dim=1))
    assert float(found.layers[seen.head].sum()) == pytest.approx(len(images), rel=1e-4)
    assert all(bool(value.isfinite().all()) for value in found.layers.values())
    gates = {layer for layer in seen.filters if ".fc1" in layer or ".fc2" in layer}
    assert not gates & set(found.layers)  # all relevance goes to the gated signal
    assert float(found.layers[seen.filters[0]].abs().sum()) > 0


class ByHand(nn.Module):
    """Two pixels, two filters, one addition, one answer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(4, 2, bias=False)
        self.conv.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
        self.head.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]])

    def forward(self, images):
        x = F.relu(self.conv(images), inplace=True)
        x += 1.0 * images
        return self.head(x.flatten(1))


def test_a_heatmap_worked_out_by_hand():
    network = ByHand()
    images = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    # Filter 0 answers (2, 6), filter 1 (-2, ...) is shut by the ReLU: (0, 0). The image is added
    # to both: (3, 9, 1, 3). Answer 0 is 3 + 18 + 3 + 12 = 36.
    explainer = Explainer(network, trace(network, images), Rules(), images)
    found = explainer.explain(images, torch.tensor([0]), to_input=len(images))
    assert found.layers["conv"].flatten().tolist() == pytest.approx(
        [3 / 36 * 2 / 3, 18 / 36 * 6 / 9, 0.0, 0.0], abs=1e-6
    )
    assert found.inputs.flatten().tolist() == pytest.approx([6 / 36, 30 / 36], abs=1e-6)
    assert found.absorbed == pytest.approx(0.0, abs=1e-6)


class Cancelling(nn.Module):
    """One pixel, and a convolution that takes a third of it off again."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.head = nn.Linear(1, 2, bias=False)
        self.conv.weight.data.fill_(-1 / 3)
        self.head.weight.data = torch.tensor([[2.0], [1.0]])

    def forward(self, images):
        x = self.conv(images)
        x += images
        return self.head(x.flatten(1))


@pytest.mark.parametrize(("addition", "share"), [("signed", 0.0), ("epsilon", -0.5)])
def test_an_addition_that_cancels_worked_out_by_hand(addition, share):
    """3 - 1 = 2: by their values the summands have 3/2 and -1/2 of the relevance."""
    network, images = Cancelling(), torch.full((1, 1, 1, 1), 3.0)
    rules = Rules(addition=addition)
    found = Explainer(network, trace(network, images), rules, images).explain(
        images, torch.tensor([0]), to_input=len(images)
    )
    assert float(found.layers["conv"].sum()) == pytest.approx(share, abs=1e-5)
    assert found.absorbed == pytest.approx(0.0, abs=1e-5)


def test_the_box_rule_by_hand():
    """Bounds 0 and 4: z = w x - w+ 0 - w- 4, for weights 2 and -1."""
    network = ByHand()
    images = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    rules = Rules(bounds=((0.0,), (4.0,)))
    given = Explainer(network, trace(network, images), rules, images).explain(
        images, torch.tensor([0]), to_input=len(images)
    )
    # Relevance at the convolution as before; each output has one input, so all goes through.
    assert float(given.inputs.sum()) == pytest.approx(1.0, abs=1e-6)


class OneByTwo(nn.Module):
    """Two pixels, one response."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, (1, 2), bias=False), nn.Linear(1, 2, bias=False)
        self.conv.weight.data = torch.tensor([2.0, -1.0]).view(1, 1, 1, 2)
        self.head.weight.data = torch.tensor([[1.0], [0.5]])

    def forward(self, images):
        return self.head(self.conv(images).flatten(1))


@pytest.mark.parametrize(
    ("rules", "shares"),
    [
        # 2 * 3 - 2 * 0 and -1 * 1 + 1 * 4 of 9; a pixel that is darker than it might be counts.
        (Rules(bounds=((0.0,), (4.0,))), (6 / 9, 3 / 9)),
        (Rules(), (1.0, 0.0)),  # 2 * 3, and nothing for what is negative
        (Rules(convolution="epsilon"), (6 / 5, -1 / 5)),
    ],
)
def test_pixels_share_by_the_first_layer_s_rule_worked_out_by_hand(rules, shares):
    network, images = OneByTwo(), torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
    found = Explainer(network, trace(network, images), rules, images).explain(
        images, torch.tensor([0]), to_input=len(images)
    )
    assert found.inputs.flatten().tolist() == pytest.approx(shares, abs=1e-5)


class Arithmetic(nn.Module):
    """One operation between a convolution and the head."""

    def __init__(self, operation):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 3, bias=False)
        self.operation = operation

    def forward(self, images):
        return self.head(self.operation(F.relu(self.conv(images))))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.sum(dim=(2, 3)),
        lambda x: torch.sum(x, dim=(2, 3)),
        lambda x: (x - 0.5 * x.mean(dim=(2, 3), keepdim=True)).sum(dim=(2, 3)),
        lambda x: (x / (1.0 + x.amax(dim=(2, 3), keepdim=True))).mean(dim=(2, 3)),
        lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).mean(dim=2),
    ],
    ids=["sum", "torch.sum", "difference", "quotient", "product"],
)
def test_arithmetic_gives_out_what_it_is_given(operation):
    torch.manual_seed(0)
    network, images = Arithmetic(operation).eval(), torch.rand(4, 3, 8, 8)
    explainer = Explainer(network, trace(network, images), Rules(), images)
    found = explainer.explain(images, network(images).argmax(dim=1), to_input=len(images))
    assert float(found.layers["head"].sum()) == pytest.approx(4.0, rel=1e-4)
    assert float(found.layers["conv"].sum()) == pytest.approx(4.0, rel=1e-3)
    assert abs(found.absorbed) < 1e-3


class Normalising(nn.Module):
    """Takes the images apart before its first layer, as GoogLeNet does, and adds them later on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3, 4, bias=False)

    def forward(self, images):
        count, channels, height, width = images.shape
        apart = [2.0 * images[:, place, None] for place in range(3)]
        seen = torch.cat(apart, dim=1).reshape(count, channels, height, width)
        return self.head((F.relu(self.conv(seen)) + images).mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [ByHand, Normalising], ids=["plain", "normalising"])
def test_few_images_of_a_batch_are_followed_to_the_pixels(make):
    torch.manual_seed(0)
    network = make().eval()
    images = torch.rand(5, 1 if make is ByHand else 3, 1, 2)
    targets = torch.tensor([0, 1, 0, 1, 1])
    explainer = Explainer(network, trace(network, images), Rules(), images)
    every, few, none = (explainer.explain(images, targets, to_input=n) for n in (5, 2, 0))
    assert every.inputs.shape == images.shape
    assert torch.equal(few.inputs, every.inputs[:2])
    assert few.absorbed == pytest.approx(1 - float(every.inputs[:2].sum()) / 2, abs=1e-6)
    assert none.inputs is None
    for name, relevance in every.layers.items():
        assert torch.equal(few.layers[name], relevance)
        assert torch.equal(none.layers[name], relevance)


class Optional(nn.Module):
    """Answers otherwise where it is given more than images, as many networks do in training."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.head = kind, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images, other=None):
        if self.kind == "mask" and other is not None:
            images = images * other
        answer = self.head(F.relu(self.conv(images)).mean(dim=(2, 3)))
        if self.kind == "loss" and other is not None:
            return answer, F.cross_entropy(answer, other)
        return answer


@pytest.mark.parametrize(
    ("kind", "words"),
    [("loss", "cannot follow the network's own decisions"), ("mask", "answers otherwise")],
)
def test_another_way_through_the_network_is_not_explained(kind, words):
    torch.manual_seed(0)
    network, images = Optional(kind).eval(), torch.rand(2, 3, 8, 8)
    with pytest.raises(ArchitectureError, match=words):
        Explainer(network, trace(network, images), Rules(), images)


class Branches(nn.Module):
    """A stem is split in two; the second half goes on as it is and through a layer, as in CSP."""

    def __init__(self, twice):
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.head, self.twice = nn.Linear(6, 3, bias=False), twice

    def forward(self, images):
        parts = F.relu(self.stem(images)).chunk(2, dim=1)
        second = parts[1]
        again = parts[1] if self.twice == "twice" else second
        first = parts[:1][0] if self.twice == "slice" else parts[0]
        joined = torch.cat([first, second, F.relu(self.more(again))], dim=1)
        return self.head(joined.mean(dim=(2, 3)))


def test_a_piece_that_is_read_twice_keeps_its_relevance():
    images, found = torch.rand(2, 3, 6, 6), []
    for twice in ("once", "twice"):
        torch.manual_seed(0)
        network = Branches(twice).eval()
        explainer = Explainer(network, trace(network, images), Rules(), images)
        found.append(explainer.explain(images, torch.tensor([0, 1])).layers["stem"])
    assert torch.allclose(*found)
    network = Branches("slice").eval()
    with pytest.raises(ArchitectureError, match="slices a list of responses"):
        Explainer(network, trace(network, images), Rules(), images)


class Shuffled(nn.Module):
    def __init__(self, shuffle):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)
        self.shuffle = shuffle
        self.register_buffer("order", torch.tensor([0, 2, 1, 3]))

    def forward(self, images):
        if self.shuffle == "module":
            moved = nn.functional.channel_shuffle(self.conv(images).relu(), 2)
        elif self.shuffle == "index":
            moved = self.conv(images).relu()[:, self.order]
        else:
            moved = self.conv(images).relu().index_select(1, self.order)
        return self.head(moved).mean(dim=(2, 3))


@pytest.mark.parametrize("shuffle", ["module", "index", "select"])
def test_channels_that_are_moved_take_their_relevance_with_them(shuffle):
    torch.manual_seed(0)
    network, images = Shuffled(shuffle).eval(), torch.rand(2, 3, 4, 4)
    explainer = Explainer(network, trace(network, images), Rules(), images)
    found = explainer.explain(images, torch.tensor([0, 1])).layers["conv"].sum(dim=(2, 3))
    plain = nn.Sequential(copy.deepcopy(network.conv), nn.ReLU(), copy.deepcopy(network.head),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    plain[2].weight.data = network.head.weight.data[:, network.order]
    other = Explainer(plain, trace(plain, images), Rules(), images)
    wanted = other.explain(images, torch.tensor([0, 1])).layers["0"].sum(dim=(2, 3))
    assert torch.allclose(found, wanted, atol=1e-5)


class Plain(nn.Module):
    """What the library that we compare with can handle: a chain of modules."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()
        self.average = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(48, 5)

    def forward(self, images):
        x = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(images)))))
        return self.head(self.average(x).flatten(1))


@pytest.mark.parametrize("convolution", ["epsilon", "gamma", "alpha1beta0"])
def test_agreement_with_captum(convolution):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import LRP
        from captum.attr._utils import lrp_rules
    torch.manual_seed(0)
    network = Plain().eval()
    for layer in (network.conv1, network.conv2):
        layer.bias.data.zero_()  # the library drops biases in some rules and keeps them in others
    images = example(16).abs()
    targets = network(images).argmax(dim=1)
    theirs = copy.deepcopy(network)
    for layer in (theirs.conv1, theirs.conv2):
        layer.rule = {
            "epsilon": lrp_rules.EpsilonRule(1e-6), "gamma": lrp_rules.GammaRule(0.25),
            "alpha1beta0": lrp_rules.Alpha1_Beta0_Rule(),
        }[convolution]  # fmt: skip
    theirs.head.rule = lrp_rules.EpsilonRule(1e-6)
    theirs.average.rule = lrp_rules.EpsilonRule(1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = LRP(theirs).attribute(images.clone(), target=targets).detach()
    logit = network(images).gather(1, targets[:, None])[..., None, None]
    rules = Rules(convolution=convolution, gamma=0.25)
    found = Explainer(network, trace(network, images), rules, images).explain(
        images, targets, to_input=len(images)
    )
    assert torch.allclose(found.inputs * logit, expected, atol=5e-3 * float(expected.abs().max()))


def test_the_network_is_left_as_it_was():
    network = shaken(nets.Residual()).eval()
    before = copy.deepcopy(network.state_dict())
    images = example(16)
    explainer = Explainer(network, trace(network, images), Rules(), images)
    explainer.explain(images, torch.zeros(2, dtype=torch.int64))
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_cannot_be_traced_is_said_and_scored_by_gradients(digits):
    from capdeploy import score
    from capdeploy.prune import groups
    from capdeploy.train import head
    from tests.conftest import wrap

    with pytest.raises(ArchitectureError, match=r"torch\.fx cannot trace the network"):
        network = nets.Deciding()
        Explainer(network, trace(network, example(16)), Rules(), example(16))

    class Heard:
        notes = ()

        def step(self, name): ...
        def advance(self, done, total, detail): ...
        def note(self, message):
            self.notes += (message,)

    model = wrap(nets.Deciding(), "tests.nets:Deciding")
    narrow = head.cut(model, digits.classes)
    heard = Heard()
    images = digits.train.take(8, seed=0)
    judged = score.Judged(narrow, groups.find(narrow), images, None, 8, 0)
    scores = score.run("lrp", judged, {}, heard)
    assert "gradient times response" in heard.notes[0]
    assert scores.of("conv")


def test_folding_does_not_change_the_answers(residual):
    images = example(16)
    whole = fold(residual.module, residual.trace, images)
    assert torch.allclose(whole(images), residual.module(images), atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in whole.modules())


def test_an_activation_inside_a_normalisation_outlives_the_folding():
    torch.manual_seed(0)
    network = settled(timm.create_model("mobilenetv2_035", num_classes=5))
    images = example()
    whole = fold(network, trace(network, images), images)
    assert torch.allclose(whole(images), network(images), atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in whole.modules())
    targets = network(images).argmax(dim=1)
    explainer = Explainer(network, trace(network, images), Rules(), images)
    layers = explainer.explain(images, targets).layers
    assert float(layers["classifier"].sum()) == pytest.approx(len(images), rel=1e-4)
    assert float(layers["conv_stem"].abs().sum()) > 0


class Preactivated(nn.Module):
    """The convolution's output is read by a normalisation and by a shortcut around it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        x = self.stem(images)
        x = x + self.conv(F.relu(self.norm(x)))
        return self.head(x.mean(dim=(2, 3)))


def test_what_others_read_too_is_not_folded():
    torch.manual_seed(0)
    network = settled(shaken(Preactivated()))
    images = example(16)
    seen = trace(network, images)
    assert seen.norm_of == {"stem": "norm"}
    whole = fold(network, seen, images)
    assert torch.equal(whole(images), network(images))
    targets = network(images).argmax(dim=1)
    layers = Explainer(network, seen, Rules(), images).explain(images, targets).layers
    assert set(layers) == {"stem", "conv", "head"}
    assert all(bool(value.isfinite().all()) for value in layers.values())


def test_a_norm_behind_an_activation_in_place_is_not_the_layer_s():
    """The tensor is the same, what it holds is not."""
    seen = trace(nets.Pyramid().eval(), torch.zeros(1, 3, 16, 16))
    assert seen.norm_of == {"shared": "norm"}


def test_an_addition_gives_to_the_summands_of_its_own_sign():
    from capdeploy.observe import operations

    summands = (torch.tensor([3.0, 3.0, -1.0, 0.0]), torch.tensor([1.0, -1.0, -3.0, 0.0]))
    relevance = torch.tensor([4.0, 2.0, 8.0, 2.0])
    first, second = operations._sum(summands, relevance, signed=True)
    # Alike: in proportion. Unlike: all to the one of the sum's sign. Both negative: in proportion.
    assert first.tolist() == pytest.approx([3.0, 2.0, 2.0, 1.0])
    assert second.tolist() == pytest.approx([1.0, 0.0, 6.0, 1.0])


class NormBehindRelu(nn.Module):
    """What the norm shifts gives relevance to responses that the ReLU in front of it shut."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.relu = nn.ReLU()

    def forward(self, images):
        maps, _ = self.pool(self.relu(self.first(images)))
        return self.head(self.norm(self.relu(self.second(maps))).mean(dim=(2, 3)))


def test_shut_responses_have_relevance_where_a_norm_gives_it_to_them():
    torch.manual_seed(0)
    network, images = shaken(NormBehindRelu()).eval(), example(16)
    explainer = Explainer(network, trace(network, images), Rules(), images)
    found = explainer.explain(images, network(images).argmax(dim=1)).layers
    shut = F.relu(network.second(network.pool(F.relu(network.first(images)))[0])) == 0
    assert float(found["second"][shut].abs().sum()) > 0
    assert float(found["first"].sum()) == pytest.approx(float(found["second"].sum()), rel=0.3)

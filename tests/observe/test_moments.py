"""Second moments: of inputs exactly, of what outputs matter in expectation."""

import pytest
import torch
from torch import nn

from capdeploy.observe import moments, rows


def batches(count=4, size=32):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(size, 3, 6, 6, generator=generator), torch.zeros(size, dtype=torch.int64)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, images):
        return self.head(self.conv(images).relu_().mean(dim=(2, 3)))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


def collect(network, layers, **changes):
    arguments = {"seed": 0, "temperature": 1.0} | changes
    return moments.collect(network, layers, batches(), iter(()), **arguments)


def test_the_covariance_is_that_of_all_patches(tiny):
    found = collect(tiny, {"conv": 1})["conv"]
    patches = torch.cat([
        nn.functional.unfold(images, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
        for images, _ in batches()
    ])  # fmt: skip
    expected = torch.cov(patches.double().T, correction=0)
    assert torch.allclose(found.covariance(), expected, atol=1e-4)
    assert found.count == len(patches)


def test_inputs_that_hardly_vary_have_a_covariance_all_the_same():
    """Their squares are a million times larger than their variance, which must not drown."""
    rows_ = 1000 + torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    found = moments.Moments()
    for part in rows_.split(16):
        found.see(part)
    expected = torch.cov(rows_.double().T, correction=0)
    assert torch.allclose(found.covariance(), expected, atol=1e-5)


def test_pooling_averages_what_belongs_together(tiny):
    found = collect(tiny, {"conv": 9})["conv"]
    assert found.covariance().shape == (3, 3)


def test_importance_is_the_fisher_matrix_of_the_answers(tiny):
    """At the logits themselves it is the mean of diag(p) - pp', whatever the labels."""
    total = torch.zeros(4, 4, dtype=torch.float64)
    for seed in range(30):
        found = collect(tiny, {"head": 1}, seed=seed)["head"]
        total += found.importance / found.gradients
    exact = torch.zeros(4, 4, dtype=torch.float64)
    count = 0
    for images, _ in batches():
        for p in torch.softmax(tiny(images).detach().double(), dim=1):
            exact += torch.diag(p) - torch.outer(p, p)
            count += 1
    assert torch.allclose(total / 30, exact / count, atol=0.01)


def test_other_images_count_for_inputs_only(tiny):
    both = moments.collect(
        tiny, {"conv": 1}, batches(2), batches(4), seed=0, temperature=1.0
    )["conv"]  # fmt: skip
    alone = moments.collect(
        tiny, {"conv": 1}, batches(2), iter(()), seed=0, temperature=1.0
    )["conv"]  # fmt: skip
    assert both.count == 3 * alone.count
    assert both.gradients == alone.gradients == 64
    assert torch.equal(both.importance, alone.importance)


def test_with_a_rest_importance_is_the_fisher_matrix_of_one_more_answer(tiny):
    """Of the kept classes' images and of others, and the further answer is the same for all."""
    rest, total = 0.3, torch.zeros(4, 4, dtype=torch.float64)
    for seed in range(30):
        found = moments.collect(
            tiny, {"head": 1}, batches(2), batches(4), seed=seed, temperature=1.0, rest=rest
        )["head"]  # fmt: skip
        total += found.importance / found.gradients
    exact, count = torch.zeros(4, 4, dtype=torch.float64), 0
    for images, _ in (*batches(2), *batches(4)):
        logits = tiny(images).detach().double()
        whole = torch.cat([logits, torch.full((len(logits), 1), rest)], dim=1)
        for p in torch.softmax(whole, dim=1)[:, :4]:
            exact += torch.diag(p) - torch.outer(p, p)
            count += 1
    assert found.gradients == count
    assert torch.allclose(total / 30, exact / count, atol=0.01)


def test_the_boundary_lies_between_the_kept_classes_and_the_rest(tiny):
    kept, rest = (
        torch.cat([3 * (tiny(images).detach() / 3).logsumexp(dim=1) for images, _ in batches(few)])
        for few in (2, 4)
    )
    found = moments.boundary(tiny, batches(2), batches(4), temperature=3.0)
    assert found == pytest.approx(float(kept.mean() + rest.mean()) / 2)


class Twice(Tiny):
    def forward(self, images):
        return super().forward(images) + super().forward(images.flip(-1))


def test_a_layer_that_runs_twice_matters_twice():
    """Were its calls counted as images, it would look half as important."""
    torch.manual_seed(0)
    once, twice = Tiny().eval(), Twice().eval()
    twice.load_state_dict(once.state_dict())
    total = torch.zeros(4, 4, dtype=torch.float64)
    for seed in range(30):
        found = collect(twice, {"head": 1}, seed=seed)["head"]
        total += found.importance / found.gradients
    assert found.gradients == 4 * 32
    exact = torch.zeros(4, 4, dtype=torch.float64)
    for images, _ in batches():
        for p in torch.softmax(twice(images).detach().double(), dim=1):
            exact += 2 * (torch.diag(p) - torch.outer(p, p)) / found.gradients
    assert torch.allclose(total / 30, exact, atol=0.02)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 1, stride=2), nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)), nn.Conv2d(4, 6, 5),
        pytest.param(
            nn.Conv2d(4, 6, (2, 4), padding="same"),
            # torch says that such a padding takes a copy; ours is no other.
            marks=pytest.mark.filterwarnings("ignore:Using padding='same' with even"),
        ),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.Conv2d(4, 8, 3, groups=4, stride=2),
    ],
)  # fmt: skip
def test_rows_times_weights_are_the_outputs(layer):
    inputs = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    outputs = layer(inputs)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    each = weight.reshape(layer.groups, -1, rows.inputs_of(layer))
    read = rows.input_rows(layer, inputs)
    found = torch.einsum("rgi,goi->rgo", read.reshape(len(read), layer.groups, -1), each)
    wanted = rows.output_rows(layer, outputs.detach())
    assert torch.allclose(found.flatten(1) + bias, wanted, atol=1e-5)

"""Shared pieces: small models, the embedded digits, one compressed run for the session."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from capdeploy import model, pipeline, samples
from capdeploy.model import Model
from capdeploy.observe.trace import trace
from capdeploy.progress import Quiet
from capdeploy.samples import Samples
from capdeploy.values.checkpoint import Architecture, Checkpoint, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.recipe import Recipe
from tests import nets, once  # noqa: F401 - importing `once` is what it is for

PREPROCESSING = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.5,) * 3)
SUBSET = ClassSubset(kept=(7, 1, 4), names=("7", "1", "4"), total=10)


# Several test processes share the cores: each, and what it starts, then gets one thread.
SHARED = "PYTEST_XDIST_WORKER" in os.environ
THREADS = 1 if SHARED else 2
if SHARED:
    os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(THREADS)  # for what is made once a session, before any test
# Files whose tests measure time; `make test` runs them when nothing else runs.
ALONE = (
    "bench/test_bench.py", "bench/test_gate.py", "bench/test_layers.py", "bench/test_matrix.py",
    "bench/test_tune.py", "cli/test_gate.py", "data/test_listing.py", "test_pytest_plugin.py",
)  # fmt: skip


def pytest_configure(config):
    if config.getoption("numprocesses", None):
        # Before the test processes begin. What computes with more than one thread in them would
        # wait for its own by spinning, and takes ten times as long where cores are shared.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path).endswith(ALONE):
            item.add_marker(pytest.mark.alone)


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


def wrap(module: torch.nn.Module, name: str = "tests.nets:Chain", size: int = 16) -> Model:
    """Make a Model of a fresh module, as `model.open` would."""
    preprocessing = PREPROCESSING.model_copy(update={"height": size, "width": size})
    module.eval()
    seen = trace(module, model.example(preprocessing))
    checkpoint = Checkpoint(
        file="none.pth",
        sha256="0" * 64,
        architecture=Architecture.parse(name),
        outputs=seen.outputs,
        stored_dtype="float32",
        input=preprocessing,
    )
    return Model(module, checkpoint, preprocessing, seen)


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give a fresh network batch-norm statistics and affine values that are not the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
            layer.weight.data.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
            layer.bias.data.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
    return module


@pytest.fixture
def chain() -> Model:
    torch.manual_seed(0)
    return wrap(shaken(nets.Chain()))


@pytest.fixture
def residual() -> Model:
    torch.manual_seed(0)
    return wrap(shaken(nets.Residual()), "tests.nets:Residual")


@pytest.fixture(scope="session")
def digits() -> Samples:
    dataset = samples.open_dataset("digits")
    return Samples(dataset, SUBSET.kept, SUBSET, PREPROCESSING, 0.1, 0, 64)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A Residual network trained on the digits until it is clearly better than chance."""
    torch.manual_seed(0)
    network = nets.Residual()
    dataset = samples.open_dataset("digits")
    everything = ClassSubset(kept=tuple(range(10)), names=dataset.names, total=10)
    images = Samples(dataset, everything.kept, everything, PREPROCESSING, 0.1, 0, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    order = np.random.default_rng(0)
    for _ in range(4):
        for batch, labels in images.train.batches(64, shuffle=order):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(batch), labels).backward()
            optimizer.step()
    file = tmp_path_factory.mktemp("trained") / "residual.safetensors"
    save_file(network.state_dict(), file)
    return file


def recipe(trained: Path, **changes) -> Recipe:
    values = {
        "checkpoint": str(trained),
        "arch": "tests.nets:Residual",
        "data": "digits",
        "input_size": (16, 16),
        "classes": ("7", "1", "4"),
        "ratio": (0.5,),
        "score_images": 64,
        "reconstruct": True,
        "epochs": 2,
        "lr": 3e-3,
        "bundle_images": 32,
        "bench": False,
    }
    return Recipe(**(values | changes))


@dataclasses.dataclass(frozen=True)
class Run:
    folder: Path
    report: object
    recipe: Recipe

    @property
    def bundle(self) -> Path:
        return self.folder / "ratio-0.5"

    @property
    def baseline(self) -> Path:
        return self.folder / "baseline"


@pytest.fixture(scope="session")
def run(trained, tmp_path_factory) -> Run:
    """One whole compression, shared by every test that only reads it."""
    folder = tmp_path_factory.mktemp("run") / "out"
    wanted = recipe(trained)
    return Run(folder, pipeline.compress(wanted, folder, Quiet()), wanted)


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Two class folders with 6 training and 3 validation images each, flat colours by class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 100, (20, 24, 3)) + label * 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03d}.png")
    return tmp_path / "images"

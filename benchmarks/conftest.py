"""An embedded network for the benchmarks: torchvision's ResNet-18 at 32x32, ten outputs."""

from __future__ import annotations

import pytest
import torch

from capdeploy import pipeline
from capdeploy.progress import Quiet
from capdeploy.values.recipe import Recipe


@pytest.fixture(scope="session")
def bench_recipe(tmp_path_factory):
    """A recipe over a ResNet-18 with random weights and the embedded digits."""
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("bench") / "resnet18.safetensors"
    save_file(torchvision.models.resnet18(num_classes=10).state_dict(), file)
    return Recipe(
        checkpoint=str(file), arch="resnet18", data="digits", classes=("0", "3", "6", "8"),
        ratio=(0.75,), epochs=0, reconstruct=False, bench=False, score_images=128,
    )  # fmt: skip


@pytest.fixture(scope="session")
def planned(bench_recipe):
    return pipeline.plan(bench_recipe, Quiet())


@pytest.fixture(scope="session")
def bundles(bench_recipe, tmp_path_factory):
    from capdeploy import bundle

    folder = tmp_path_factory.mktemp("bench") / "out"
    pipeline.compress(bench_recipe, folder, Quiet())
    return {entry.manifest.role: entry for entry in bundle.find(folder)}

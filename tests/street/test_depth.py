"""Whole blocks go, from the recipe to the bundle and back."""

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from capdeploy import bundle, pipeline, rebuild
from capdeploy.check_images import CheckImages
from capdeploy.progress import Quiet
from capdeploy.values.plan import PruningPlan
from tests import nets
from tests.commands import capdeploy
from tests.conftest import recipe, shaken


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """A run that has to remove blocks, with everything that follows a cut."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("depth")
    save_file(shaken(nets.Blocks()).state_dict(), folder / "blocks.safetensors")
    wanted = recipe(
        folder / "blocks.safetensors", arch="tests.nets:Blocks", ratio=(), max_macs=("40%",),
        allocation="global", depth="prune", align=16, protect=("stem",), tolerance=1.0, epochs=1,
    )  # fmt: skip
    pipeline.compress(wanted, folder / "out", Quiet())
    return folder / "out" / "macs-40pct"


def test_the_bundle_holds_a_shallower_network_that_is_rebuilt(shallow):
    opened = bundle.read(shallow)
    bundle.verify(opened)
    plan = PruningPlan.from_json((shallow / bundle.PLAN).read_bytes())
    assert plan.removed
    network = rebuild.from_plan(
        opened.manifest.checkpoint.architecture, 10, plan, shallow / bundle.WEIGHTS
    )
    for block in plan.removed:
        assert isinstance(network.get_submodule(block.name), rebuild.REMAINS[block.becomes])
    check = CheckImages.load(shallow)
    inputs = torch.from_numpy(opened.manifest.checkpoint.input.apply(check.images))
    with torch.no_grad():
        assert np.allclose(network(inputs).numpy(), check.logits, atol=1e-4)
    nodes = [node.op_type for node in onnx.load(shallow / bundle.GRAPH).graph.node]
    assert nodes.count("Conv") == 1 + 2 * (3 - len(plan.removed))
    assert nodes.count("Add") == 3 - len(plan.removed)


def test_the_plan_s_table_names_what_is_gone(shallow):
    done = capdeploy("inspect", shallow / "plan.json", "-f", "md")
    assert done.returncode == 0, done.stderr
    assert "removed whole: stage." in done.stdout


def test_even_shares_are_refused_at_the_door(shallow, tmp_path):
    done = capdeploy(
        "compress", shallow.parent.parent / "blocks.safetensors", "--arch", "tests.nets:Blocks",
        "--data", "digits", "--input-size", 16, "--classes", "7,1,4", "--ratio", 0.5,
        "--depth", "prune", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 2
    assert "take repair, global, sensitivity or latency" in done.stderr
    assert not (tmp_path / "out").exists()

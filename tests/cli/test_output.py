"""What commands write, and that nobody has to read it."""

import os
import subprocess
import sys

import pytest

from capdeploy import recipes
from capdeploy.errors import ConfigError

PROGRESS = """
from capdeploy.cli._output import Progress, aside
progress = Progress()
for number in range(3):
    progress.step("a step")
    progress.note("something")
    progress.advance(number, 3, "")
aside("capdeploy: an error")
print("the work was done")
"""


def test_work_goes_on_when_nobody_reads_the_progress():
    """`capdeploy compress ... 2>&1 | head` stopped half-way, with exit code 0."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRESS], stdout=subprocess.PIPE, stderr=write, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stdout) == (0, "the work was done\n")


def test_a_variable_that_is_nearly_a_recipe_key_is_refused():
    """CAPDEPLOY_EPOCH=5 trained as long as ever; other tools' variables are theirs."""
    given = {"checkpoint": "a.pth", "data": "digits"}
    with pytest.raises(ConfigError, match="CAPDEPLOY_EPOCH is no recipe key; CAPDEPLOY_EPOCHS is"):
        recipes.resolve(None, {"CAPDEPLOY_EPOCH": "5"}, (), given)
    kept = recipes.resolve(None, {"CAPDEPLOY_COMPLETE": "x", "CAPDEPLOY_EPOCHS": "5"}, (), given)
    assert kept.epochs == 5
    training = {"arch": "resnet18", "data": "digits"}
    assert recipes.resolve_training(None, {"CAPDEPLOY_DEVICES": "cpu"}, (), training).arch

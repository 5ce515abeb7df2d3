"""Weights & Biases, offline unless WANDB_MODE says otherwise: ``wandb sync`` uploads later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the library is imported
os.environ.setdefault("WANDB_MODE", "offline")
import wandb


class WeightsAndBiases:
    """A run of the project ``capdeploy``.

    Parameters
    ----------
    folder : Path
        Of all runs; what is not uploaded stays there.
    name : str
        Of this one.
    recipe : Mapping[str, str]
        Its configuration.
    """

    def __init__(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
            x_disable_stats=True,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "capdeploy"), name=name, dir=str(folder),
            config=dict(recipe), settings=quiet,
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep one point of each curve; steps of different networks begin at 1 again."""
        self._run.log({**values, "step": step})

    def end(self, *, failed: bool) -> None:
        """Close the run."""
        self._run.finish(exit_code=int(failed))


BEGIN = WeightsAndBiases

"""Checkpoints of our own: weights that say what they are, and training that can go on.

All in safetensors; nothing is pickled. The header of a weights file holds architecture, labels and
preprocessing, so ``compress`` needs to be told none of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from capdeploy import tensorfile
from capdeploy.errors import CheckpointError, ConfigError
from capdeploy.model import device_of
from capdeploy.train.loop import Progress
from capdeploy.values.training import ORIGIN, Epoch, Origin

BEST, LAST, RESUME = "best.safetensors", "last.safetensors", "resume.safetensors"


def save(state: Mapping[str, torch.Tensor], file: Path, notes: Mapping[str, str]) -> None:
    """Write tensors and words to a file that appears whole or not at all."""
    draft = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        tensorfile.save(state, draft, notes)
        draft.chmod(0o644)  # safetensors would keep it from all others
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


class Folder:
    """Keeps a run's progress in its folder after every epoch.

    Parameters
    ----------
    folder : Path
        It exists.
    origin : Origin
        What the weights are.
    words : str
        The recipe; another recipe does not go on with this run.
    """

    def __init__(self, folder: Path, origin: Origin, words: str) -> None:
        self._folder = folder
        self._origin = origin
        self._words = words

    def require_same(self) -> None:
        """Stop if what was kept belongs to another recipe; a `ConfigError` says so."""
        file = self._folder / RESUME
        if file.is_file() and self._notes(file).get("recipe") != self._words:
            raise ConfigError(
                f"{file} was kept by another recipe; repeat that, or begin anew with --force"
            )

    def _notes(self, file: Path) -> dict[str, Any]:
        """Read the words of a progress file; a `CheckpointError` if it is damaged."""
        try:
            with safe_open(file, framework="pt") as opened:
                return dict(json.loads(opened.metadata()["capdeploy.progress"]))
        except Exception as error:  # a damaged file fails in every way
            raise _damaged(file, error) from error

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Bring network and optimizer to where they stood after the last epoch.

        Parameters
        ----------
        module : nn.Module
            The network; its weights are replaced.
        optimizer : torch.optim.Optimizer
            Its optimizer, fresh.

        Returns
        -------
        Progress | None
            Where training stood; None if nothing was kept.

        Raises
        ------
        CheckpointError
            If what was kept is damaged.
        """
        file = self._folder / RESUME
        if not file.is_file():
            return None
        notes = self._notes(file)
        try:
            tensors = load_file(file)
            module.load_state_dict(_part(tensors, "now."))
            _restore_optimizer(optimizer, _part(tensors, "optimizer."))
            torch.set_rng_state(tensors["rng"])
            shuffle = np.random.default_rng()
            shuffle.bit_generator.state = notes["shuffle"]
            device = device_of(module)
            if device.type == "cuda" and "rng.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["rng.cuda"], device)
            best = {name: value.to(device) for name, value in _part(tensors, "best.").items()}
            history = [Epoch.model_validate(epoch) for epoch in notes["history"]]
            return Progress(
                notes["start"], notes["best_epoch"], best, tensors["peak"].numpy(),
                notes["peak_epoch"], shuffle, history, notes["diverged"],
            )  # fmt: skip
        except Exception as error:  # a damaged file fails in every way
            raise _damaged(file, error) from error

    def keep(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the best and the last weights, and all that going on needs."""
        notes = {
            "recipe": self._words,
            "start": progress.start,
            "best_epoch": progress.best_epoch,
            "peak_epoch": progress.peak_epoch,
            "diverged": progress.diverged,
            "shuffle": progress.shuffle.bit_generator.state,
            "history": [epoch.model_dump() for epoch in progress.history],
        }
        now = module.state_dict()
        state = {
            **{f"now.{name}": value for name, value in now.items()},
            **{f"best.{name}": value for name, value in progress.best_state.items()},
            **{f"optimizer.{name}": value for name, value in _flat(optimizer).items()},
            "rng": torch.get_rng_state(),
            "peak": torch.from_numpy(progress.peak),
        }
        device = device_of(module)
        if device.type == "cuda":
            state["rng.cuda"] = torch.cuda.get_rng_state(device)
        origin = {ORIGIN: self._origin.model_dump_json(), "format": "pt"}
        save(now, self._folder / LAST, origin)
        save(progress.best_state, self._folder / BEST, origin)
        save(state, self._folder / RESUME, {"capdeploy.progress": json.dumps(notes)})


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged ({type(error).__name__}: {error}); begin anew with --force"
    )


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Name every tensor of an optimizer by its parameter's number and its own name."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if value is not None
    }


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})

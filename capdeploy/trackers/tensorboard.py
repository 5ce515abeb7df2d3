"""TensorBoard's event files: ``tensorboard --logdir FOLDER/tensorboard``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes event files into a folder of the run's own.

    Parameters
    ----------
    folder : Path
        Of all runs.
    name : str
        Of this one.
    recipe : Mapping[str, str]
        Shown as text.
    """

    def __init__(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        # Two runs in one folder would be one curve that runs back.
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        places = (folder / "tensorboard" / each for each in names)
        self._writer = SummaryWriter(str(next(place for place in places if not place.exists())))
        lines = "\n".join(f"    {key} = {value}" for key, value in recipe.items())
        self._writer.add_text("recipe", lines)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


BEGIN = TensorBoard

"""TensorBoard's event files: ``tensorboard --logdir FOLDER/tensorboard``."""

from __future__ import annotations

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
        self._writer = SummaryWriter(str(folder / "tensorboard" / name))
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

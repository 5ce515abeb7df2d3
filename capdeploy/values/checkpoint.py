"""Where a network comes from and what it wants to see."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from capdeploy.values.noun import Argument, Noun


class Architecture(Noun):
    """How to build a network: a shelf of the zoo, a name on it, and arguments."""

    source: str = Field(description="member of the zoo: torchvision, factory, ...")
    name: str = Field(min_length=1, description="network name, or package.module:callable")
    arguments: dict[str, Argument] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``resnet18``, ``timm:NAME``, ``package.module:callable`` or ``file.py:callable``.

        Parameters
        ----------
        text : str
            The user's words.

        Returns
        -------
        Self
            The architecture; whether it exists is the zoo's to say.

        Examples
        --------
        >>> Architecture.parse("resnet18").source
        'torchvision'
        >>> Architecture.parse("mine.nets:make").source
        'factory'
        """
        head, colon, tail = text.partition(":")
        if not colon:
            return cls(source="torchvision", name=text)
        if head in {"torchvision", "cifar_resnet", "timm"}:
            return cls(source=head, name=tail)
        return cls(source="factory", name=text)

    def __str__(self) -> str:
        return (
            f"{self.source}:{self.name}" if self.source in {"cifar_resnet", "timm"} else self.name
        )


class Preprocessing(Noun):
    """From a decoded image to the network's input: the one definition that everyone uses."""

    height: int = Field(gt=0, le=4096, description="pixels")
    width: int = Field(gt=0, le=4096, description="pixels")
    mean: tuple[float, float, float] = Field(description="subtracted, on the 0..1 scale")
    std: tuple[float, float, float] = Field(description="divided by, on the 0..1 scale")
    channel_order: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["short-side-then-centre-crop", "stretch"] = "short-side-then-centre-crop"
    crop: float = Field(
        default=1.0, gt=0, le=1, description="input side / resized short side; 224 of 256 is 0.875"
    )
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, found {min(self.std)}")
        return self

    def apply(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scale, normalise and lay out a batch of images.

        Parameters
        ----------
        images : npt.NDArray[np.uint8]
            (N, H, W, 3) RGB images at the input size, 0..255.

        Returns
        -------
        npt.NDArray[np.float32]
            (N, 3, H, W), contiguous, channels in `channel_order`.
        """
        mean = np.asarray(self.mean, dtype=np.float32)
        std = np.asarray(self.std, dtype=np.float32)
        pixels: npt.NDArray[Any] = images if self.channel_order == "RGB" else images[..., ::-1]
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


class Checkpoint(Noun):
    """A file of trained weights and what is known about it."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    architecture: Architecture
    outputs: int = Field(ge=2, description="width of the head")
    stored_dtype: str = Field(description="floating-point type of most weights on disk")
    input: Preprocessing
    labels: tuple[str, ...] | None = Field(default=None, description="names in output order")
    unused: tuple[str, ...] = Field(
        default=(), description="tensors that were left out: auxiliary heads, keys to be ignored"
    )
    absent: tuple[str, ...] = Field(
        default=(), description="tensors that the file lacks by permission; they are fresh"
    )

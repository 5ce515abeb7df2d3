"""Exported graphs, and the proof that they answer as the network does."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from capdeploy.values.accuracy import Accuracy, Difference
from capdeploy.values.noun import Noun
from capdeploy.values.trust import Trust


class Parity(Noun):
    """How far a graph's answers are from the network's, on real images."""

    stage: str = Field(description="exported, simplified, or a runtime's name")
    images: int = Field(gt=0)
    max_abs_error: float = Field(ge=0, description="largest difference of any logit")
    top1_agreement: float = Field(ge=0, le=1)
    atol: float = Field(gt=0, description="largest max_abs_error that is accepted")

    @classmethod
    def between(
        cls,
        found: npt.NDArray[np.float32],
        expected: npt.NDArray[np.float32],
        *,
        stage: str,
        atol: float,
    ) -> Self:
        """Compare two sets of logits.

        Parameters
        ----------
        found : npt.NDArray[np.float32]
            (N, k) the graph's answers.
        expected : npt.NDArray[np.float32]
            (N, k) the network's answers.
        stage : str
            What to call the result.
        atol : float
            Largest absolute error that is accepted.

        Returns
        -------
        Self
            The largest error (NaN and infinity count as the largest float) and the agreement.
        """
        error = float(np.abs(found - expected).max())
        return cls(
            stage=stage,
            images=len(expected),
            max_abs_error=error if np.isfinite(error) else float(np.finfo(np.float64).max),
            top1_agreement=float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
            atol=atol,
        )

    @property
    def holds(self) -> bool:
        """True if the error is within `atol` and every top-1 answer is the same."""
        return self.max_abs_error <= self.atol and self.top1_agreement == 1.0


class Simplification(Noun):
    """What onnxsim did, or why its result is not used."""

    applied: bool
    nodes_before: int = Field(ge=0)
    nodes_after: int = Field(ge=0)
    reason: str | None = Field(default=None, description="why it was not applied")


class Artifact(Noun):
    """A graph file of the bundle."""

    file: str
    opset: int = Field(ge=18)
    nodes: int = Field(gt=0)
    size_bytes: int = Field(gt=0)
    simplification: Simplification
    parity: tuple[Parity, ...] = Field(min_length=1)


class Quantized(Noun):
    """The same network in fewer bits, for one runtime, and what that costs in accuracy."""

    precision: Literal["fp16", "int8"]
    runtime: Literal["onnxruntime", "openvino"]
    files: tuple[str, ...] = Field(min_length=1, description="what is opened comes first")
    size_bytes: int = Field(ge=0, description="of all its files; 0 if it could not be made")
    calibration_images: int = Field(default=0, ge=0, description="of the kept classes")
    in_fp32: tuple[str, ...] = Field(default=(), description="nodes that stay in single precision")
    before: Accuracy = Field(description="of the graph in fp32 in this runtime, test split")
    after: Accuracy | None = Field(default=None, description="None if it could not be made")
    drop: Difference | None = Field(
        default=None, description="top-1 points lost, on the same images"
    )
    trust: Trust | None = Field(default=None, description="of its own answers; fp32's where None")
    max_drop: float | None = Field(default=None, description="points that it might lose")
    rejected: str | None = Field(default=None, description="why it is not in the bundle")

    @property
    def kept(self) -> str:
        """Say what of it is kept, and whether it may be losing too much."""
        said = "kept"
        if self.in_fp32:
            several = "s" if len(self.in_fp32) > 1 else ""
            said += f", {len(self.in_fp32)} layer{several} in fp32"
        drop, most = self.drop, self.max_drop
        if drop is not None and most is not None and drop.points > most:
            said += (
                f"; loses more than --max-drop {most:g}, but its interval begins at {drop.low:+.1f}"
            )
        return said

"""Which classes a device needs, and in which order it will answer."""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import Field, model_validator

from capdeploy.values.noun import Noun


class ClassSubset(Noun):
    """The kept classes, in the user's order, which is the order of the outputs."""

    kept: tuple[int, ...] = Field(description="output ids of the full head, in output order")
    names: tuple[str, ...] = Field(description="one name for each kept class")
    total: int = Field(ge=2, description="outputs of the full head")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if len(self.kept) < 2:
            raise ValueError(
                f"{len(self.kept)} class chosen, at least 2 are needed to tell anything apart"
            )
        repeated = sorted(index for index, times in Counter(self.kept).items() if times > 1)
        if repeated:
            raise ValueError(f"class {repeated[0]} is chosen more than once")
        outside = [index for index in self.kept if not 0 <= index < self.total]
        if outside:
            raise ValueError(f"class {outside[0]} is outside 0..{self.total - 1}")
        if len(self.names) != len(self.kept):
            raise ValueError(f"{len(self.names)} names for {len(self.kept)} classes")
        if len(set(self.names)) != len(self.names):
            raise ValueError("two kept classes have the same name")
        return self

    def __len__(self) -> int:
        return len(self.kept)

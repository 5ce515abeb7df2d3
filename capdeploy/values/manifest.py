"""What a bundle's manifest says of the folder it lies in."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.accuracy import Accuracy
from capdeploy.values.artifact import Artifact, Quantized
from capdeploy.values.checkpoint import Checkpoint, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.cost import Cost
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.trust import Trust

# No longer than any file system takes.
REJECTED = "(none of these)"
"""What the reject output is called among the labels."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class FileEntry(Noun):
    """Digest and size of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Manifest(Noun):
    """The bundle in one page: what it is, what it costs, and the digest of every other file."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    role: Literal["baseline", "compressed"]
    baseline: str | None = Field(
        default=None, description="folder beside this one, to compare with"
    )
    checkpoint: Checkpoint
    classes: ClassSubset
    head_cut: bool = Field(description="false: all outputs of the checkpoint remain")
    reject_output: int | None = Field(
        default=None, description="the output that wins where an image is of no kept class"
    )
    preprocessing: Preprocessing
    cost: Cost
    accuracy: Accuracy | None = None
    artifact: Artifact
    quantized: tuple[Quantized, ...] = Field(default=(), description="in fewer bits, by runtime")
    trust: Trust | None = Field(default=None, description="None if the head is whole")
    files: dict[str, FileEntry]
    self_sha256: str = Field(
        default="", description="of this document's JSON with this field empty"
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        strange = [name for name in self.files if not FILE_NAME.fullmatch(name)]
        if strange:
            raise ValueError(f"file name {strange[0]!r} may not leave the bundle's folder")
        if self.baseline is not None and not FILE_NAME.fullmatch(self.baseline):
            raise ValueError(f"baseline {self.baseline!r} must be a folder beside the bundle")
        kept = (each for each in self.quantized if each.rejected is None)
        named = (self.artifact.file, *(file for each in kept for file in each.files))
        if self.files and (unlisted := [file for file in named if file not in self.files]):
            raise ValueError(f"graph {unlisted[0]!r} is not among its files")
        return self

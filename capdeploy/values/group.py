"""Channels that must go together, as plain data; DepGraph finds them (`prune.groups`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from capdeploy.values.noun import Noun


class Member(Noun):
    """One side of a layer in a group."""

    layer: str
    side: Literal["out", "in"]
    positions: tuple[tuple[int, ...], ...] = Field(
        description="for each channel of the group, the layer's channels that go with it: one, "
        "or several behind a flatten, or none"
    )

    def __str__(self) -> str:
        return f"{self.layer}:{self.side}"


Remains = Literal["identity", "relu"]


class Block(Noun):
    """A residual block that a network runs without: its shortcut hands the input on."""

    name: str = Field(description="of the module that is replaced")
    becomes: Remains = Field(
        description="what is left: the input itself, or the activation behind the addition"
    )
    layers: tuple[str, ...] = Field(min_length=1, description="layers with weights that go with it")
    other_parameters: int = Field(
        default=0, ge=0, description="parameters besides theirs that go: layer scales, layer norms"
    )

    def __str__(self) -> str:
        return self.name


class Group(Noun):
    """Channels that must go together."""

    name: str = Field(description="its first filter-making layer, in order of execution")
    width: int = Field(gt=0)
    unit: int = Field(
        default=1, gt=0, description="filters behind one channel: those of one convolution group"
    )
    members: tuple[Member, ...] = Field(description="every coupled side of a layer with weights")
    makers: tuple[str, ...] = Field(description="members that make filters; depthwise left out")
    residual: bool = Field(description="whether an addition couples two or more makers")
    obstacle: str | None = Field(default=None, description="why it cannot be cut, if it cannot")

    def parts(self) -> frozenset[frozenset[int]]:
        """List the channels of members that have only some: each must keep one of its own.

        A residual add of concatenated maps ties layers that make different channels of a group.
        """
        found = (
            frozenset(channel for channel, places in enumerate(member.positions) if places)
            for member in self.members
        )
        return frozenset(part for part in found if 0 < len(part) < self.width)

    def readers(self) -> tuple[Member, ...]:
        """List the members that read the group's channels."""
        return tuple(member for member in self.members if member.side == "in")

"""How a room tells what it is doing: a callback that does nothing unless someone listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Say(Protocol):
    """Listens to a run. No room prints."""

    def step(self, name: str) -> None:
        """Begin a named step of the street."""

    def note(self, message: str) -> None:
        """Say one thing that the user should know."""

    def advance(self, done: int, total: int, detail: str) -> None:
        """Move the progress of the present step."""

    def measured(self, values: Mapping[str, float], step: int = 0) -> None:
        """Take numbers that are worth a curve: one point, at a step, of each named quantity."""


class Quiet:
    """Listens to nothing."""

    def step(self, name: str) -> None:
        """Ignore a step."""

    def note(self, message: str) -> None:
        """Ignore a message."""

    def advance(self, done: int, total: int, detail: str) -> None:
        """Ignore progress."""

    def measured(self, values: Mapping[str, float], step: int = 0) -> None:
        """Ignore numbers."""

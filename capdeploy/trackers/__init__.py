"""Who keeps curves of a run beside those of others. One file per tracker; a light door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from capdeploy.catalog import Catalog


class Tracker(Protocol):
    """A run that is being tracked."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep some numbers of one step; names are ``network/quantity``."""

    def end(self, *, failed: bool) -> None:
        """Close the run."""


Begin = Callable[[Path, str, Mapping[str, str]], Tracker]
"""Begins a run: folder for what is kept on this machine, the run's name, its recipe as words."""

TRACKERS: Catalog[Begin] = Catalog("capdeploy.trackers", "BEGIN", "tracker")

"""Where relevance is on its way back through a traced network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx


class Flow:
    """Relevance on its way back: what each operation's result has been given so far.

    Parameters
    ----------
    to_input : int
        Of how many images, the first ones, it goes as far as to the images themselves.
    """

    def __init__(self, to_input: int) -> None:
        self._to_input = to_input
        self.given: dict[fx.Node, torch.Tensor] = {}
        self.pieces: dict[fx.Node, dict[int, torch.Tensor]] = {}

    def give(self, node: fx.Node, share: torch.Tensor | None) -> None:
        """Add to what an operation's result has; a gate has nothing, and few images of a batch."""
        if share is not None:
            share = share[: self._to_input] if node.op == "placeholder" else share
            self.given[node] = self.given[node] + share if node in self.given else share

    def split(self, node: fx.Node, values: Mapping[fx.Node, Any], relevance: torch.Tensor) -> bool:
        """Set one piece of a tuple aside until all are there; false if it is no piece."""
        whole, place = cast(tuple[fx.Node, int], node.args)
        if not isinstance(values[whole], (tuple, list)):
            return False
        known = self.pieces.setdefault(whole, {})
        known[place] = known[place] + relevance if place in known else relevance
        return True

"""How to build an architecture. One file per source; the door imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capdeploy.catalog import Catalog

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Source:
    """One way to build networks.

    Parameters
    ----------
    build : Callable[[str, Mapping[str, Any], int | None], nn.Module]
        Takes a name, keyword arguments and the number of outputs (None: the network's own
        default) and returns the network with fresh weights; fetches nothing.
    sized : Callable[[str], bool]
        Tells whether the number of outputs can be chosen for a name.
    names : Callable[[], tuple[str, ...]]
        Lists the names it can build; empty if they cannot be listed.
    auxiliary : Callable[[str], tuple[str, ...]]
        Lists the prefixes of the heads that only training uses; `build` leaves them out.
    families : Callable[[], Mapping[str, tuple[str, ...]]]
        Groups the names whose tensors are called alike, where there are too many to try all.
    """

    build: Callable[[str, Mapping[str, Any], int | None], nn.Module]
    sized: Callable[[str], bool]
    names: Callable[[], tuple[str, ...]]
    auxiliary: Callable[[str], tuple[str, ...]] = lambda _: ()
    families: Callable[[], Mapping[str, tuple[str, ...]]] = dict


SOURCES: Catalog[Source] = Catalog("capdeploy.zoo", "SOURCE", "architecture source")

"""Packages that a library would import unasked, and that it does without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """Keep a package from being imported within the block.

    Whoever imported it before keeps it, and so does what is imported within the block.

    Parameters
    ----------
    name : str
        The package.

    Yields
    ------
    None
        Nothing.
    """
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]

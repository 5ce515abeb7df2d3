"""Memory that is freed and asked for again at once: it stays with the process meanwhile.

A training step on images of 224 pixels allocates gigabytes in pieces of tens of megabytes and
frees them again. The GNU C library hands pieces of that size back to the operating system, which
clears every page anew when it is asked for the next; that may take longer than computing.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# malloc.h of the GNU C library, and what it begins with (mallopt(3)).
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, NONE = -1, 0
AT_FIRST = {TRIM_THRESHOLD: 128 << 10, MMAP_MAX: 1 << 16}

_inside = 0


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed within the block; behind it, it goes back to the operating system.

    Blocks may lie within each other. Elsewhere than on Linux with the GNU C library nothing
    changes, nor where the environment tunes it already (``MALLOC_...``). Child processes are not
    concerned, so that what they measure is not either.

    Yields
    ------
    None
        Nothing; works as a decorator too.
    """
    global _inside
    _inside += 1
    try:
        if _inside == 1:
            _set({TRIM_THRESHOLD: NEVER, MMAP_MAX: NONE})
        yield
    finally:
        _inside -= 1
        if _inside == 0:
            _set(AT_FIRST)
            _call("malloc_trim", 0)


def _set(options: dict[int, int]) -> None:
    for option, value in options.items():
        _call("mallopt", option, value)


def _call(name: str, *arguments: int) -> None:
    function = _functions().get(name)
    if function is not None:
        function(*arguments)


@cache
def _functions() -> dict[str, Callable[..., int]]:
    tuned = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if tuned or platform.libc_ver()[0] != "glibc":
        return {}
    library = ctypes.CDLL(None)
    return {name: getattr(library, name) for name in ("mallopt", "malloc_trim")}

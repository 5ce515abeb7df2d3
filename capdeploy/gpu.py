"""Arithmetic on a GPU while capdeploy works: as exact and as repeatable as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact() -> Iterator[None]:
    """Compute convolutions in whole single precision, by algorithms that answer alike every time.

    By default tensor cores take single precision with ten bits (TF32), and cuDNN may add up in any
    order. Without a GPU nothing changes; behind the block all is as it was.

    Yields
    ------
    None
        While it is so.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        yield

"""Writes files of weights; `weights` reads them."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


def save(
    state: Mapping[str, torch.Tensor], file: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write weights to a safetensors file, with words in its header.

    Parameters
    ----------
    state : Mapping[str, torch.Tensor]
        Name to tensor, wherever they are.
    file : Path
        The file.
    notes : Mapping[str, str] | None
        The words.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # Copies: a network may have a module under two names, and the format wants no shared memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    try:
        save_file(tensors, file, metadata=None if notes is None else dict(notes))
    except SafetensorError as error:
        # The library has the system's reason in its words only.
        code = errno.ENOSPC if "No space" in str(error) else errno.EIO
        raise OSError(code, os.strerror(code), str(file)) from error

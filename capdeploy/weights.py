"""Reads a file of weights without running any code from it."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from capdeploy.errors import CheckpointError

State = dict[str, torch.Tensor]
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")


def read_state(file: Path) -> State:
    """Read a file's weights without running any code from it.

    Parameters
    ----------
    file : Path
        A torch zip or legacy file, or a safetensors file; told apart by content.

    Returns
    -------
    State
        Parameter name to tensor, prefixes of wrappers removed.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, holds foreign classes or no tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist")
    with file.open("rb") as stream:
        start = stream.read(16)
    if not start:
        raise CheckpointError(f"checkpoint {file} is empty")
    content = _read_safetensors(file) if start[8:9] == b"{" else _read_torch(file, start)
    return _unwrap(content, file)


def _read_safetensors(file: Path) -> State:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {file} is not a whole safetensors file: {error}; copy it again"
        ) from error


def _read_torch(file: Path, start: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error says enough
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_foreign(file, start, error)) from error
    except Exception as error:  # torch's unpickler fails in every way on a damaged file
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {file} cannot be read ({line}); it is truncated or not a torch or "
            "safetensors file"
        ) from error


def _foreign(file: Path, start: bytes, error: Exception) -> str:
    names: list[str] = []
    if start.startswith(b"PK"):
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    else:
        names = _globals_of(file)
    if names:
        return (
            f"checkpoint {file} holds objects that would run code: {', '.join(names[:4])}"
            f"{', ...' if len(names) > 4 else ''}; save its state_dict() instead"
        )
    reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
    return (
        f"checkpoint {file} cannot be read safely{': ' + reason.strip() if reason else ''}; "
        "save its state_dict() instead"
    )


def _globals_of(file: Path) -> list[str]:
    """List the classes and functions that a bare pickle names, by reading it, not by running it."""
    names: set[str] = set()
    words: list[str] = []
    with file.open("rb") as stream, contextlib.suppress(ValueError):
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                names.add(".".join(words[-2:]))
            elif isinstance(argument, str):
                words.append(argument)
    return sorted(name for name in names if not name.startswith(("torch.", "collections.")))


def _unwrap(content: object, file: Path) -> State:
    for _ in range(2):
        if isinstance(content, Mapping):
            inner = next((content[key] for key in WRAPPERS if _is_state(content.get(key))), None)
            content = content if inner is None else inner
    if not isinstance(content, Mapping) or not _is_state(content):
        found = (
            f"keys {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise CheckpointError(
            f"checkpoint {file} holds no weights: found {found}, expected a state_dict, bare or "
            f"under {', '.join(WRAPPERS)}"
        )
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_state(content: object) -> bool:
    return isinstance(content, Mapping) and any(
        isinstance(value, torch.Tensor) and value.ndim for value in content.values()
    )

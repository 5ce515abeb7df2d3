"""Reads a file of weights without running any code from it."""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.serialization import safe_globals

from capdeploy.catalog import nearest
from capdeploy.errors import CheckpointError
from capdeploy.sniff import MOST_TIMES, SAFETENSORS, TORCH, bounded, globals_of, sniff
from capdeploy.values.noun import first_fault
from capdeploy.values.training import ORIGIN, Origin

State = dict[str, torch.Tensor]
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")
COUNTERS = {"n_averaged"}  # that torch's AveragedModel keeps beside its prefixed weights
# Whole pickled networks are opened if every class they name is a network of these packages.
KNOWN = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.", "timm.")
# What training scripts (torchvision's and timm's among them) put beside the weights: plain data.
_SCALAR = np.float64(0).__reduce__()[0]
PLAIN: list[Any] = [
    argparse.Namespace,
    collections.defaultdict,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "bBhHiIlLqQefd?"},
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
SET = "__builtin__.set"  # which every network holds
PLAIN_NAMES = {
    kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}"
    for kind in PLAIN
}


@dataclass(frozen=True)
class Reading:
    """How to read a file that leaves a choice.

    Parameters
    ----------
    state_key : str | None
        Where in the file the weights are, for example ``model_ema``; dots lead deeper. None: the
        usual places.
    strip_prefix : str | None
        What to take away from the front of every name, for example ``backbone.``; names without
        it are left out.
    trust : bool
        Unpickle whatever the file says, which runs code from it.
    ignored : tuple[str, ...]
        Patterns of tensor names that may be missing, unexpected or of another kind.
    """

    state_key: str | None = None
    strip_prefix: str | None = None
    trust: bool = False
    ignored: tuple[str, ...] = ()


def read_state(file: Path, reading: Reading | None = None) -> State:
    """Read a file's weights without running any code from it.

    Parameters
    ----------
    file : Path
        A torch zip or legacy file, or a safetensors file; told apart by content.
    reading : Reading | None
        Where the weights are, if not in the usual place, and whether to trust the file.

    Returns
    -------
    State
        Parameter name to tensor, prefixes of wrappers removed.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, of another kind, holds foreign classes or no tensors.
    """
    reading = reading or Reading()
    if file.is_dir():
        raise CheckpointError(f"checkpoint {file} is a folder; name the file of weights inside")
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist")
    if not file.stat().st_size:
        raise CheckpointError(f"checkpoint {file} is empty")
    found = sniff(file)
    if not found.opens:
        raise CheckpointError(f"checkpoint {file} is {found.title}; {found.way_out}")
    content = (
        _read_safetensors(file) if found is SAFETENSORS else _read_torch(file, trust=reading.trust)
    )
    state = _unwrap(_entries(content, file), file, reading.state_key)
    return _stripped(state, file, reading.strip_prefix)


def read_origin(file: Path) -> Origin | None:
    """Read what a file of ``capdeploy train`` says about itself.

    Parameters
    ----------
    file : Path
        Any file, or none.

    Returns
    -------
    Origin | None
        None for all other files.

    Raises
    ------
    CheckpointError
        If it says something that cannot be understood.
    """
    if not file.is_file() or sniff(file) is not SAFETENSORS:
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            words = (opened.metadata() or {}).get(ORIGIN)
        return Origin.model_validate_json(words) if words is not None else None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_not_whole(file, error)) from error
    except ValidationError as error:
        raise CheckpointError(f"checkpoint {file}: its header: {first_fault(error)}") from error


def _read_safetensors(file: Path) -> State:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(_not_whole(file, error)) from error


def _not_whole(file: Path, error: Exception) -> str:
    return f"checkpoint {file} is not a whole safetensors file: {error}; copy it again"


def _read_torch(file: Path, *, trust: bool) -> object:
    names: list[str] = []
    try:
        with bounded(file):
            names = _named(file)
        known = [*PLAIN, *_known_classes(names)]
        limit = contextlib.nullcontext() if trust else bounded(file)
        with warnings.catch_warnings(), safe_globals(known), limit:
            warnings.simplefilter("ignore")  # about pickle protocols; the error says enough
            if _mappable(file) and file.suffix != ".safetensors":
                # Mapped: the network's weights are then the file itself and no copy of it.
                return torch.load(file, map_location="cpu", weights_only=not trust, mmap=True)
            # A stream and not the path, whose suffix torch would believe.
            with file.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_foreign(file, names, error)) from error
    except MemoryError as error:
        told = f"asks for more memory than {MOST_TIMES} times its size; it is damaged, get it again"
        raise CheckpointError(f"checkpoint {file} {told}") from error
    except Exception as error:  # torch's unpickler fails in every way on a damaged file
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = "it is truncated or not a torch or safetensors file"
        if isinstance(error, ModuleNotFoundError):  # a trusted one names code
            why = "install that package, or put it on PYTHONPATH"
        raise CheckpointError(f"checkpoint {file} cannot be read ({line}); {why}") from error


def _known_classes(names: list[str]) -> list[Any]:
    """Import the classes of whole pickled networks, if all that the file names are of our list.

    Importing them is what ``import torchvision`` does; nothing of the file runs by that.
    """
    if not all(name.startswith(KNOWN) for name in names):
        return []
    found = []
    for name in names:
        place, _, kind = name.rpartition(".")
        try:
            thing = getattr(importlib.import_module(place), kind)
        except (ImportError, AttributeError):
            return []
        # Functions could do anything with what the file hands them; network classes only hold it.
        if not (isinstance(thing, type) and issubclass(thing, nn.Module)):
            return []
        found.append(thing)
    return found


def _named(file: Path) -> list[str]:
    """List the foreign classes and functions that a file names, without running it."""
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint
    names = sorted(unsafe(file)) if sniff(file) is TORCH else globals_of(file)
    return [name for name in names if name not in PLAIN_NAMES]


def _mappable(file: Path) -> bool:
    """Tell whether a zip file holds its numbers as they are; torch maps compressed ones too."""
    if sniff(file) is not TORCH:
        return False
    with zipfile.ZipFile(file) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _foreign(file: Path, names: list[str], error: Exception) -> str:
    way_out = "save its state_dict() instead, or add --trust-checkpoint if you know who made it"
    if names and sniff(file) is not TORCH and all(name.startswith((*KNOWN, SET)) for name in names):
        told = "is a whole network in torch's format of before 1.6, which cannot be read without"
        return f"checkpoint {file} {told} running its code; {way_out}"
    if names:
        return (
            f"checkpoint {file} holds objects that would run code: {', '.join(names[:4])}"
            f"{', ...' if len(names) > 4 else ''}; {way_out}"
        )
    reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
    return (
        f"checkpoint {file} cannot be read safely{': ' + reason.strip() if reason else ''}; "
        "save its state_dict() instead"
    )


def _unwrap(content: object, file: Path, key: str | None) -> State:
    if key is not None:
        content = _at(content, key, file)
    for _ in range(2):
        if isinstance(content, Mapping):
            inside = (_entries(content.get(key), file) for key in WRAPPERS)
            content = next(filter(_is_state, inside), content)
    if not isinstance(content, Mapping) or not _is_state(content):
        found = type(content).__name__
        if isinstance(content, Mapping):
            found = f"keys {', '.join(map(str, list(content)[:5]))}"
        raise CheckpointError(
            f"checkpoint {file} holds no weights: found {found}, expected a state_dict, bare or "
            f"under {', '.join(WRAPPERS)}; --state-key names another place"
        )
    state = {name: value for name, value in content.items() if _is_entry(name, value)}
    for prefix in PREFIXES * 2:
        rest = {name: value for name, value in state.items() if name not in COUNTERS}
        if rest and all(name.startswith(prefix) for name in rest):
            state = {name.removeprefix(prefix): value for name, value in rest.items()}
    return state


def _at(content: object, key: str, file: Path) -> object:
    for part in key.split("."):
        known = tuple(map(str, content)) if isinstance(content, Mapping) else ()
        if not isinstance(content, Mapping) or part not in content:
            raise CheckpointError(
                f"checkpoint {file} has no '{key}': {nearest(part, known) if known else 'no keys'}"
            )
        content = _entries(content[part], file)
    return content


def _entries(content: object, file: Path) -> object:
    """Give the entries of a whole network; anything else as it is."""
    try:
        return content.state_dict() if isinstance(content, nn.Module) else content
    except Exception as error:  # a file can make a network without any of its parts
        told = f"holds half a network ({type(error).__name__}: {error}); get it again"
        raise CheckpointError(f"checkpoint {file} {told}") from error


def _stripped(state: State, file: Path, prefix: str | None) -> State:
    if prefix is None:
        return state
    bare = re.sub(rf"^({'|'.join(map(re.escape, PREFIXES))})+", "", prefix)  # these are gone
    for start in (prefix, bare):
        if kept := {name[len(start) :]: state[name] for name in state if name.startswith(start)}:
            return kept
    raise CheckpointError(
        f"checkpoint {file}: no name begins with '{prefix}'; the first is {next(iter(state))}"
    )


def _is_state(content: object) -> bool:
    return isinstance(content, Mapping) and any(
        _is_entry(name, value) and value.ndim for name, value in content.items()
    )


def _is_entry(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)

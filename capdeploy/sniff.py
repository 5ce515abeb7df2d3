"""What a file is, told by its content and never by its name; how much memory it may ask for."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickletools
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from capdeploy import graphfile
from capdeploy.errors import CapdeployError, CheckpointError

# Enough for every signature; the member list of a zip file is read from its end.
START_BYTES = 4096
# Opening a file may take so many times its size, and on top of it some room to work in: for what
# libraries set up once, and for the stacks of the threads that they start, one for each core.
MOST_TIMES = 16
ROOM_BYTES = 1 << 28
STACK_BYTES = 1 << 24
# Magic number, protocol, system, content, keys of the storages.
LEGACY_PICKLES = 5
PAGE = "the download failed and saved an error page; download the file again"
TEXT = "it holds no weights; name the file of weights, or download it again if that failed"
WEIGHTS_OUT = "save its weights with torch.save(model.state_dict(), FILE) and name that file"


@dataclass(frozen=True)
class Found:
    """What a file is.

    Parameters
    ----------
    kind : str
        ``torch``, ``safetensors`` or ``pickle`` can be opened; anything else cannot.
    title : str
        In words, with an article.
    way_out : str
        What its owner can do; empty if it can be opened.
    """

    kind: str
    title: str
    way_out: str = ""

    @property
    def opens(self) -> bool:
        """True if weights can be read from it."""
        return not self.way_out


TORCH = Found("torch", "a torch file")
PICKLE = Found("pickle", "a pickle")
SAFETENSORS = Found("safetensors", "a safetensors file")
TAR = Found("tar", "a tar archive", "unpack it and name the file inside")
UNKNOWN = Found(
    "unknown",
    "no file of weights",
    "expected a state_dict saved by torch.save, or a safetensors file",
)

# By the members that every file of the kind has; the first match counts.
_ZIPS: tuple[tuple[Callable[[set[str]], bool], Found], ...] = (
    (
        lambda names: (
            any(name.endswith("/constants.pkl") for name in names)
            and any("/code/" in name for name in names)
        ),
        Found(
            "torchscript",
            "a TorchScript archive, which holds code",
            "save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
        ),
    ),
    (
        lambda names: any(
            name.rpartition("/")[2] in {"archive_format", "serialized_exported_program.json"}
            for name in names
        ),
        Found(
            "exported program",
            "a torch.export archive (.pt2)",
            "save its weights: torch.save(dict(torch.export.load(FILE).state_dict), 'weights.pth')",
        ),
    ),
    (lambda names: any(name.endswith("data.pkl") for name in names), TORCH),
    (
        lambda names: "model.weights.h5" in names or "config.json" in names,
        Found("keras", "a Keras archive", f"capdeploy opens PyTorch weights: {WEIGHTS_OUT}"),
    ),
    (
        lambda names: bool(names) and all(name.endswith(".npy") for name in names),
        Found(
            "npz",
            "a NumPy archive (.npz)",
            "turn its arrays into tensors and save them with safetensors.torch.save_file",
        ),
    ),
)
_STARTS: tuple[tuple[int, bytes, Found], ...] = (
    (
        0,
        b"version https://git-lfs",
        Found(
            "git-lfs",
            "a Git LFS pointer and not the file itself",
            "run 'git lfs pull' in its repository",
        ),
    ),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        Found("hdf5", "an HDF5 file (Keras?)", f"capdeploy opens PyTorch weights: {WEIGHTS_OUT}"),
    ),
    (0, b"\x93NUMPY", Found("npy", "a NumPy array", "it holds one array; name a state_dict")),
    (
        4,
        b"TFL3",
        Found("tflite", "a TensorFlow Lite model", "name the PyTorch weights it was made from"),
    ),
    (0, b"\x1f\x8b", Found("gzip", "a gzip archive", "unpack it and name the file inside")),
    (0, b"7z\xbc\xaf", Found("7z", "a 7z archive", "unpack it and name the file inside")),
    (0, b"Rar!", Found("rar", "a RAR archive", "unpack it and name the file inside")),
    (257, b"ustar", TAR),
    (0, b"%PDF", Found("pdf", "a PDF document", "name the file of weights instead")),
    (0, b"\x89PNG", Found("image", "an image", "name the file of weights instead")),
    (0, b"\xff\xd8\xff", Found("image", "an image", "name the file of weights instead")),
)


def sniff(file: Path) -> Found:
    """Tell what a file is.

    Parameters
    ----------
    file : Path
        Not empty.

    Returns
    -------
    Found
        Its kind, and the way out if weights cannot be read from it.

    Raises
    ------
    CheckpointError
        If the system does not let it be read.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(START_BYTES)
    except OSError as error:
        told = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(f"checkpoint {file} {told}") from error
    for place, signature, found in _STARTS:
        if start[place : place + len(signature)] == signature:
            return found
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip(file)
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 40:
        return SAFETENSORS
    # Protocols 2 and above begin with their number; a truncated one is torch's to complain about.
    if start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return TAR if _old_tar(start) else PICKLE
    return _page(start, size) or _onnx(file) or UNKNOWN


def globals_of(file: Path) -> list[str]:
    """List the classes and functions that a bare pickle names, by reading it, not by running it.

    torch's old format is several pickles one after the other, and then the numbers.

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    list[str]
        In order, those of torch and of collections left out.
    """
    names: set[str] = set()
    words: list[str] = []
    with file.open("rb") as stream, contextlib.suppress(ValueError):
        for operation, argument, _ in itertools.chain.from_iterable(
            pickletools.genops(stream) for _ in range(LEGACY_PICKLES)
        ):
            if operation.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                names.add(".".join(words[-2:]))
            elif isinstance(argument, str):
                words.append(argument)
    return sorted(name for name in names if not name.startswith(("torch.", "collections.")))


@contextlib.contextmanager
def bounded(file: Path) -> Iterator[None]:
    """Let opening a file take a multiple of its size in memory and no more, where Linux counts it.

    A pickle of fifty bytes can ask for a terabyte by names that every reader of weights allows:
    ``bytearray(1 << 40)``. What asks for more is told that there is none (MemoryError).

    Parameters
    ----------
    file : Path
        The file.

    Yields
    ------
    None
        While the limit holds, for the whole process; a stricter one of the system's stays.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    own = ROOM_BYTES + STACK_BYTES * (os.cpu_count() or 1)
    most = psutil.Process().memory_info().vms + own + MOST_TIMES * file.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if any(limit != resource.RLIM_INFINITY and limit <= most for limit in limits):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _old_tar(start: bytes) -> bool:
    """Recognise a tar archive without a signature by its checksum; torch would unpack it."""
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _zip(file: Path) -> Found:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return TORCH  # cut short before its list of members, or too new: torch says so
    for matches, found in _ZIPS:
        if matches(names):
            return found
    inside = ", ".join(sorted(names)[:3]) or "nothing"
    return Found("zip", f"a zip archive of {inside}", "unpack it and name the file inside")


def _page(start: bytes, size: int) -> Found | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Found("page", "an HTML page", PAGE)
    if text.startswith(b"<?xml"):
        if b"<net " in text:
            return Found("openvino", "an OpenVINO model", f"capdeploy opens PyTorch weights: "
                         f"{WEIGHTS_OUT}")  # fmt: skip
        return Found("page", "an XML document", PAGE)
    if text.startswith((b"{", b"[")) and size <= START_BYTES:
        try:
            json.loads(start)
        except (ValueError, RecursionError):
            return None
        return Found("json", "a JSON document", TEXT)
    try:
        words = start.decode()
    except UnicodeDecodeError:
        return None
    if words.isprintable() or all(sign.isprintable() or sign in "\r\n\t" for sign in words):
        return Found("text", f"a text that begins {words.split(chr(10))[0][:40]!r}", TEXT)
    return None


def _onnx(file: Path) -> Found | None:
    try:
        graphfile.read(file)
    except CapdeployError:
        return None
    return Found(
        "onnx",
        "an ONNX graph",
        "pruning needs the PyTorch weights it was exported from; 'capdeploy gate' takes ONNX files",
    )

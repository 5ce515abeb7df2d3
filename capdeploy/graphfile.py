"""What an ONNX file says of itself, read without the onnx package, which a device has not.

Only the few fields that a comparison needs are decoded; the format is protocol buffers
(https://protobuf.dev/programming-guides/encoding/) with the field numbers of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capdeploy.errors import ConfigError, UsageError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# TensorProto.DataType: float, uint8, int8, float16, double, bfloat16. Whole numbers of other
# types are shapes and axes, not parameters.
PARAMETER_TYPES = {1, 2, 3, 10, 11, 16}


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file.

    Parameters
    ----------
    file : Path
        Where it lies.
    opset : int
        Version of the default operator set.
    nodes : int
        Operators of the main graph.
    parameters : int
        Elements of the stored weights, biases included.
    input_shape : tuple[int | None, ...]
        Of the first input that is not a stored weight; None: any size.
    beside : tuple[str, ...]
        Names of the files that hold its weights, if they lie beside the graph.
    """

    file: Path
    opset: int
    nodes: int
    parameters: int
    input_shape: tuple[int | None, ...]
    beside: tuple[str, ...] = ()

    @property
    def graph_path(self) -> Path:
        """The graph that a runtime opens."""
        return self.file

    @property
    def size_bytes(self) -> int:
        """Size of the graph and of the weights beside it."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph, and the weights beside it."""
        return (self.file, *(self.file.parent / name for name in self.beside))

    def path(self, name: str) -> Path:
        """Give the path of a bundle's file of this name: there is only the graph."""
        return self.file if name.endswith(".onnx") else self.file.parent / name


def read(file: Path) -> GraphFile:
    """Read an ONNX file's facts; the weights themselves are skipped.

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    GraphFile
        Its facts.

    Raises
    ------
    UsageError
        If there is no such file, or its weights lie in another one that is not there.
    ConfigError
        If it is not an ONNX model.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file; name a bundle's folder or an .onnx file")
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
            found = _model(file, data)
    except PermissionError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"{file} is not an ONNX model ({error}); name a bundle's folder or an .onnx file"
        ) from error
    if lost := [path for path in found.files if not path.is_file()]:
        raise UsageError(f"{file}: its weights are in {lost[0]}, which is not there; copy both")
    return found


def _model(file: Path, data: mmap.mmap) -> GraphFile:
    opset, graph = 0, None
    for number, start, end in _fields(data, 0, len(data)):
        if number == 8:
            entry = {n: (s, e) for n, s, e in _fields(data, start, end)}
            # The default domain has no name, or this one.
            if 1 not in entry or data[slice(*entry[1])] in (b"", b"ai.onnx"):
                opset = _varint(data, entry[2][0])[0]
        elif number == 7:
            graph = (start, end)
    if graph is None or not opset:
        raise ValueError("it has no graph")
    nodes, stored, parameters = 0, set(), 0
    beside: set[str] = set()
    inputs: list[tuple[str, tuple[int | None, ...]]] = []
    for number, start, end in _fields(data, *graph):
        if number == 1:
            nodes += 1
        elif number == 5:
            name, elements, place = _tensor(data, start, end)
            stored.add(name)
            parameters += elements
            beside |= {place} - {""}
        elif number == 11:
            inputs.append(_input(data, start, end))
    free = [shape for name, shape in inputs if name not in stored]
    return GraphFile(file, opset, nodes, parameters, free[0] if free else (), tuple(sorted(beside)))


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of one message: number, where the value starts, where it ends."""
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        start = at
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind == BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"no protocol buffer field begins at byte {at}")
        if at > end or not number:
            raise ValueError("a field is longer than the file")
        yield number, start, at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"no number begins at byte {at}")


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[str, int, str]:
    """Read a weight's name, how many numbers it has, and in which file they are if elsewhere."""
    name, elements, kind, place = "", 1, 0, ""
    for number, first, last in _fields(data, start, end):
        if number == 8:
            name = data[first:last].decode()
        elif number == 2:
            kind = _varint(data, first)[0]
        elif number == 1:
            # Dimensions come packed or one by one: in both forms a row of numbers.
            while first < last:
                size, first = _varint(data, first)
                elements *= size
        elif number == 13:
            entry = {n: data[s:e].decode() for n, s, e in _fields(data, first, last)}
            place = entry.get(2, "") if entry.get(1) == "location" else place
    return name, elements if kind in PARAMETER_TYPES else 0, place


def _input(data: mmap.mmap, start: int, end: int) -> tuple[str, tuple[int | None, ...]]:
    entry = {number: (first, last) for number, first, last in _fields(data, start, end)}
    name = data[slice(*entry[1])].decode()
    shape: list[int | None] = []
    for number, first, last in _nested(data, entry.get(2), 1, 2):
        if number == 1:
            sizes = {n: s for n, s, _ in _fields(data, first, last)}
            shape.append(_varint(data, sizes[1])[0] if 1 in sizes else None)
    return name, tuple(shape)


def _nested(
    data: mmap.mmap, place: tuple[int, int] | None, *path: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of the message that a path of field numbers leads to, if it is there."""
    for step in path:
        if place is None:
            return
        found = {number: (first, last) for number, first, last in _fields(data, *place)}
        place = found.get(step)
    if place is not None:
        yield from _fields(data, *place)

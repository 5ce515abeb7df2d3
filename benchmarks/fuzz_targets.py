"""What `benchmarks.fuzz` opens, and how it sees that an input did more than it may."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
MOST_GROWTH_MIB = 512
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty|remove|rename|mkdir|rmdir|link|symlink|"
    r"truncate|chmod|chown|utime|kill|putenv)|subprocess\.|socket\.|shutil\.|tempfile\.|"
    r"pickle\.find_class|urllib\.|ctypes\.dlopen|webbrowser\."
)


class BrokenPromiseError(Exception):
    """What was returned, or said, is not what the interface promises."""


class Watch:
    """Hears of everything that the interpreter does to the world, and forbids it while it listens.

    An audit hook stays until the process ends, so it belongs into a process of its own.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._listening = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple[object, ...]) -> None:
        if not self._listening:
            return
        writes = event == "open" and isinstance(details[2], int) and details[2] & WRITING
        if writes or FORBIDDEN.match(event):
            self.heard.append(f"{event} {details[:1]!r}")
            raise PermissionError(f"fuzz: {event} is not allowed")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        self.heard.clear()
        self._listening = True
        try:
            yield
        finally:
            self._listening = False


@dataclass(frozen=True)
class Finding:
    """Something that should not happen; `key` is the same for all inputs that show it."""

    key: str
    details: str


def open_checkpoint(file: Path) -> None:
    import torch

    from capdeploy import graphfile
    from capdeploy.errors import CapdeployError
    from capdeploy.sniff import sniff
    from capdeploy.weights import Reading, read_origin, read_state

    with contextlib.suppress(CapdeployError):
        graphfile.read(file)
    with contextlib.suppress(CapdeployError):
        read_origin(file)
    found = sniff(file)
    state = read_state(file)
    if not found.opens:
        raise BrokenPromiseError(f"read_state opened what sniff calls {found.title}")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise BrokenPromiseError("a name is not text or a value is not a tensor")
    with contextlib.suppress(CapdeployError):
        read_state(file, Reading(state_key="model.x", strip_prefix="module."))


def open_manifest(file: Path) -> None:
    from capdeploy import bundle
    from capdeploy.errors import CapdeployError
    from capdeploy.values.checkpoint import Preprocessing
    from capdeploy.values.plan import PruningPlan
    from capdeploy.values.report import Metrics

    text = file.read_bytes()
    for kind in (PruningPlan, Preprocessing, Metrics):
        with contextlib.suppress(CapdeployError):
            same(kind.from_json(text), kind)
    opened = bundle.find(file.parent)[0]
    same(opened.manifest, type(opened.manifest))
    sealed = bundle.Bundle(opened.folder, bundle.sealed(opened.manifest))
    for entry in (opened, sealed):
        for step in (bundle.verify, bundle.require_parity, bundle.Bundle.baseline):
            with contextlib.suppress(CapdeployError):
                step(entry)


def same(noun, kind) -> None:
    if kind.from_json(noun.to_json()) != noun:
        raise BrokenPromiseError(f"{kind.__name__} does not survive its own JSON")


def open_profile(file: Path) -> None:
    from capdeploy import profiles, recipes
    from capdeploy.errors import CapdeployError

    with contextlib.suppress(CapdeployError):
        recipe = recipes.resolve(file, {}, [], {})
        again = recipes.resolve(file, {}, [], recipe.model_dump(mode="json"))
        if again != recipe:
            raise BrokenPromiseError("a recipe does not survive its own plain form")
    found = profiles.findings(str(file))
    if any("\n" in finding for finding in found):
        raise BrokenPromiseError(f"a finding of {len(found)} has more than one line")
    profiles.load(str(file))


# The name that a file has when it is opened, how, and the one of the corpus that is opened first.
OPENERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "sniff": ("weights.pth", open_checkpoint, "state.zip.pth"),
    "manifest": ("manifest.json", open_manifest, "manifest.json"),
    "profile": ("profile.toml", open_profile, "this-host.toml"),
}


class Room:
    """A folder of its own in which inputs are opened one after the other, and looked after.

    Parameters
    ----------
    target : str
        One of `OPENERS`.
    folder : Path
        Empty; the working directory and the place of temporary files are put inside.
    """

    def __init__(self, target: str, folder: Path) -> None:
        name, self._open, first = OPENERS[target]
        self._folders = [folder / part for part in ("input", "working", "temporary")]
        for part in self._folders:
            part.mkdir(parents=True)
        self._file = self._folders[0] / name
        if target == "manifest":
            from capdeploy import bundle

            for other in bundle.FILES:
                (self._folders[0] / other).write_bytes(b"x")
        self._file.touch()
        os.chdir(self._folders[1])
        tempfile.tempdir = str(self._folders[2])
        self._expected = self._listing()
        self._watch = Watch()
        # What is loaded on first use, and compiled, belongs to no input.
        self._file.write_bytes((CORPUS / target / first).read_bytes())
        self._open(self._file)

    def _listing(self) -> list[str]:
        return [str(path) for folder in self._folders for path in sorted(folder.rglob("*"))]

    def outcome(self, data: bytes) -> str | Finding:
        """Open one input.

        Returns
        -------
        str | Finding
            ``opened``, ``refused: why``, or what is wrong.
        """
        from capdeploy.errors import CapdeployError

        self._file.write_bytes(data)
        _forget_peak()
        before = _memory("VmRSS")
        result: str | Finding = "opened"
        try:
            with self._watch.listening():
                self._open(self._file)
        except CapdeployError as error:
            result = _refusal(str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it is, it is what we look for
            result = Finding(_place(error), traceback.format_exc())
        if self._watch.heard:
            return Finding(f"did {self._watch.heard[0]}", "\n".join(self._watch.heard))
        if self._listing() != self._expected:
            return Finding("left files", "\n".join(self._listing()))
        if (growth := _memory("VmHWM") - before) > MOST_GROWTH_MIB:
            return Finding(f"grew by more than {MOST_GROWTH_MIB} MiB", f"{growth} MiB; {result}")
        return result


def _refusal(message: str) -> str | Finding:
    if "\n" in message or not message.isprintable():
        return Finding("a message that is not one printable line", repr(message))
    return f"refused: {message}"


def _place(error: BaseException) -> str:
    """Name where an exception comes from: its kind and capdeploy's last line on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/capdeploy/" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _forget_peak() -> None:
    """Let the kernel count the largest memory anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) >> 10

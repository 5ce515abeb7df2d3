"""Measures `align` on this machine: probe networks of many widths, in every runtime, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np

from capdeploy import graphfile, profiles, textfile
from capdeploy.bench import drafts, environment, tune
from capdeploy.bench.clock import WallClock
from capdeploy.bundle import Bundle
from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError, MissingExtraError, StepFailedError
from capdeploy.export import probes
from capdeploy.progress import Say
from capdeploy.runtimes import RUNTIMES, Session
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.tuning import Tuning

# PyTorch is left out: it runs networks, not graphs.
RUNTIMES_OF_GRAPHS = ("onnxruntime", "openvino")


def measure(runtimes: Sequence[str], *, threads: int, seconds: float, say: Say) -> Tuning:
    """Find the channel multiple that pays in each runtime, and overall.

    Parameters
    ----------
    runtimes : Sequence[str]
        Which to measure, of ``onnxruntime`` and ``openvino``; empty: those that are installed.
    threads : int
        Threads of a runtime, at least 1.
    seconds : float
        Measuring time in all.
    say : Say
        Hears of the progress.

    Returns
    -------
    Tuning
        Times, effects and the multiples; `align` is the largest that pays anywhere.

    Raises
    ------
    ConfigError
        If a runtime is unknown, or does not run graphs.
    MissingExtraError
        If a runtime that was asked for, or every runtime, is not installed.
    """
    for name in runtimes:
        if name not in RUNTIMES_OF_GRAPHS:
            hint = nearest(name, RUNTIMES_OF_GRAPHS)
            raise ConfigError(f"'{name}' is not a runtime that tune can measure; {hint}")
    here = list(dict.fromkeys(runtimes)) or _installed(say)
    keys = [(name, block) for name in here for block in probes.BLOCKS]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capdeploy-tune-")))
        say.step("building probe networks")
        sessions: list[Session] = []
        for name, block in keys:
            for width in tune.WIDTHS:
                file = folder / f"{block}-{width}.onnx"
                if not file.exists():
                    probes.build(block, width, file)
                opened: Any = RUNTIMES.load(name).open(
                    cast(Bundle, graphfile.read(file)), "cpu", threads
                )
                stack.callback(opened.close)
                sessions.append(opened)
        say.step(f"timing {len(sessions)} networks in turns for {seconds:g} s")
        image = np.random.default_rng(0).random((1, 3, probes.SIZE, probes.SIZE), dtype=np.float32)
        times = tune.in_turns(sessions, image, WallClock(), seconds=seconds, say=say)
    parts = np.split(times, len(keys), axis=1)
    found = tuple(
        tune.decide(name, block, tune.WIDTHS, part)
        for (name, block), part in zip(keys, parts, strict=True)
    )
    align = max(probe.multiple for probe in found)
    return Tuning(environment=environment.read(), threads=threads, align=align, probes=found)


def target(path: Path | None, say: Say) -> HardwareProfile | None:
    """Open the profile that is to be tuned, before time is spent on measuring.

    Parameters
    ----------
    path : Path | None
        A TOML file; None if nothing is to be written.
    say : Say
        Is warned if this machine is not the profile's device.

    Returns
    -------
    HardwareProfile | None
        What the file says now.

    Raises
    ------
    ConfigError
        If there is no such file, it is not valid, or align cannot be set in it.
    """
    if path is None:
        return None
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; begin one with capdeploy profiles new ID -o FILE")
    profile = profiles.load(str(path))
    drafts.with_align(path.read_text(encoding="utf-8"), 1, "a trial")
    if not environment.is_device(profile, environment.read()):
        say.note(f"this machine is not the device of {profile.id}: align will be this machine's")
    return profile


def write(tuning: Tuning, path: Path) -> None:
    """Set the measured align in a profile.

    Parameters
    ----------
    tuning : Tuning
        What was measured.
    path : Path
        A profile that `target` accepts.

    Raises
    ------
    StepFailedError
        If the measurement leaves open whether a larger multiple pays.
    """
    if tuning.unclear:
        raise StepFailedError(
            f"this machine is too noisy to tell whether {', '.join(map(str, tuning.unclear))} "
            f"pays; {path} is as it was; give more --seconds"
        )
    each = ", ".join(f"{name} {multiple}" for name, multiple in tuning.by_runtime.items())
    note = f"measured by capdeploy profiles tune: {each}"
    text = drafts.with_align(path.read_text(encoding="utf-8"), tuning.align, note)
    textfile.write(path, text, force=True)


def _installed(say: Say) -> list[str]:
    found, missing = [], None
    for name in RUNTIMES_OF_GRAPHS:
        try:
            RUNTIMES.load(name).devices()
            found.append(name)
        except MissingExtraError as error:
            missing = error
            say.note(f"{name} is left out: {error}")
    if not found and missing is not None:
        raise missing
    return found

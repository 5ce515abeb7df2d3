"""Looks at this machine. Runtimes are tried in processes of their own: a broken one may crash."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from capdeploy import __version__, profiles
from capdeploy.bench import child, environment
from capdeploy.bench.isa import instruction_sets
from capdeploy.errors import CapdeployError, MissingError, MissingExtraError
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.doctor import Examination, ExtraState, RuntimeState
from capdeploy.values.environment import RUNTIME_PACKAGES, Environment

WORKER = "capdeploy.bench.doctor"
PROBE_SECONDS = 120.0
DEVELOPERS_ONLY = "dev"
# The same package under two names, of which either will do.
TWINS = {"onnxruntime": "onnxruntime-gpu"}
# What the runtimes' own files do about it.
TELEMETRY = {
    "onnxruntime": "ONNX Runtime: switched off before it loads",
    "openvino": "OpenVINO: its reporting package is hidden while it loads",
}


def examine(noise_floor: Callable[[], float | None]) -> Examination:
    """Look at everything that decides what capdeploy can do here.

    Parameters
    ----------
    noise_floor : Callable[[], float | None]
        Measures the smallest slowdown that this machine can see now, a share; None if it is not
        to be measured.

    Returns
    -------
    Examination
        What was found.
    """
    here = environment.read()
    runtimes = tuple(_probe(name, here) for name in RUNTIMES.names())
    folder = tempfile.gettempdir()
    return Examination(
        tool_version=__version__,
        runtimes=runtimes,
        extras=_extras(),
        instruction_sets=instruction_sets(here),
        environment=here,
        fingerprint=here.fingerprint,
        threads_available=here.threads_available,
        memory_available_mib=psutil.virtual_memory().available >> 20,
        temporary_folder=folder,
        temporary_free_mib=_free_mib(folder),
        telemetry=_telemetry(runtimes),
        profiles=_matching(here),
        noise_floor=_floor(noise_floor),
    )


def require(found: Examination) -> None:
    """Refuse a machine on which nothing can be measured.

    Parameters
    ----------
    found : Examination
        What was found.

    Raises
    ------
    MissingError
        If no runtime works.
    """
    if not found.usable:
        names = ", ".join(runtime.title for runtime in found.runtimes)
        raise MissingError(
            f"no runtime works here (looked for {names}), and one is needed to run a bundle: "
            "pip install 'capdeploy[onnxruntime]'"
        )


def _probe(name: str, here: Environment) -> RuntimeState:
    try:
        answer = child.run(WORKER, {"runtime": name}, threads=1, timeout=PROBE_SECONDS)
    except child.ChildDiedError as error:
        answer = {"state": "broken", "problem": _broken(error)}
    packages = answer.pop("packages", ())
    version = next((here.packages[each] for each in packages if each in here.packages), None)
    title = RUNTIMES.load(name).title
    return RuntimeState.model_validate({"name": name, "title": title, "version": version, **answer})


def _broken(cause: object) -> str:
    return f"it does not load: {cause}; install it again"


def _extras() -> tuple[ExtraState, ...]:
    try:
        distribution = importlib.metadata.distribution("capdeploy")
    except importlib.metadata.PackageNotFoundError:
        return ()  # run from a source tree: nothing says what the extras are
    return tuple(
        ExtraState(name=name, missing=_missing(name, distribution.requires or []))
        for name in distribution.metadata.get_all("Provides-Extra") or ()
        if name != DEVELOPERS_ONLY
    )


def _missing(extra: str, requirements: list[str]) -> tuple[str, ...]:
    """Find an extra's packages that are not installed; versions are pip's to judge."""
    marker = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    names = []
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        if name and marker.search(requirement) and not _installed(name.group()):
            names.append(name.group())
    return tuple(names)


def _installed(name: str) -> bool:
    return any(_has(each) for each in (name, TWINS.get(name, name)))


def _has(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _free_mib(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return None


def _telemetry(runtimes: tuple[RuntimeState, ...]) -> tuple[str, ...]:
    there = [runtime.name for runtime in runtimes if runtime.state != "missing"]
    return ("capdeploy: has none", *(TELEMETRY[name] for name in there if name in TELEMETRY))


def _matching(here: Environment) -> tuple[str, ...]:
    return tuple(
        name for name in profiles.names() if environment.is_device(profiles.load(name), here)
    )


def _floor(measure: Callable[[], float | None]) -> float | None:
    try:
        return measure()
    except (CapdeployError, child.ChildDiedError):
        return None  # a machine that cannot be measured still has all the rest to tell


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Try one runtime and describe what came of it in plain data."""
    try:
        devices = RUNTIMES.load(job["runtime"]).devices()
    except MissingExtraError as error:
        # A module that is not found is missing; any other failure to import it is its own fault.
        cause = error.__cause__
        if isinstance(cause, ImportError) and not isinstance(cause, ModuleNotFoundError):
            return {"state": "broken", "problem": _broken(cause)}
        return {"state": "missing", "problem": str(error)}
    loaded = [name for name in RUNTIME_PACKAGES if name.removesuffix("-gpu") in sys.modules]
    return {"state": "works", "devices": devices, "packages": loaded}


if __name__ == "__main__":
    job_file, result_file = map(Path, sys.argv[1:3])
    result_file.write_text(
        json.dumps(main(json.loads(job_file.read_text(encoding="utf-8")))), encoding="utf-8"
    )

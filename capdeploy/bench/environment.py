"""What machine this is."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import Environment

ISA_OF_INTEREST = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve", "bf16",
)  # fmt: skip
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")


def read() -> Environment:
    """Describe the machine that measures."""
    info = _text("/proc/cpuinfo")
    flags = (_field(info, "flags") or _field(info, "Features")).split()
    # Arm kernels print no "model name"; single-board computers name the whole board instead.
    model = _field(info, "model name") or _field(info, "Model") or _board()
    return Environment(
        cpu_model=model or platform.processor() or platform.machine(),
        arch=platform.machine(),
        isa=tuple(flag for flag in ISA_OF_INTEREST if flag in flags),
        cores_allowed=cores_allowed(),
        cpu_quota=_quota(),
        memory_mib=psutil.virtual_memory().total >> 20,
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", info, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _board() -> str:
    return _text("/proc/device-tree/model").strip("\0\n ")


def cores_allowed() -> int:
    """Count the cores that this process may run on, which can be fewer than the host has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_device(profile: HardwareProfile, here: Environment) -> bool:
    """Tell whether this machine is the profile's device.

    Parameters
    ----------
    profile : HardwareProfile
        The device.
    here : Environment
        This machine.

    Returns
    -------
    bool
        True if every given field of the profile's ``match`` agrees; false if none is given.
    """
    match = profile.match
    if match.any_host:
        return True
    checks = [
        re.search(match.cpu_model, here.cpu_model) is not None if match.cpu_model else None,
        match.arch == here.arch if match.arch else None,
        here.cores_allowed >= match.min_cores if match.min_cores else None,
    ]
    given = [check for check in checks if check is not None]
    return bool(given) and all(given)


def _quota() -> float | None:
    """Read the cgroup's CPU quota, in cores (version 2 only)."""
    parts = _text("/sys/fs/cgroup/cpu.max").split()
    if len(parts) != 2 or parts[0] == "max":
        return None
    return int(parts[0]) / int(parts[1])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

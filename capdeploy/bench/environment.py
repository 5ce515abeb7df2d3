"""What machine this is. Whatever the system does not tell is left out, and nothing fails."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from capdeploy.bench import cgroup
from capdeploy.bench.files import answer, text
from capdeploy.values.environment import RUNTIME_PACKAGES, Environment, threads_at_once
from capdeploy.values.profile import HardwareProfile

HERE = Path("/")
CPUS = "sys/devices/system/cpu"
ISA_OF_INTEREST = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve", "bf16",
)  # fmt: skip
PACKAGES = (*RUNTIME_PACKAGES, "numpy")


def read(root: Path = HERE) -> Environment:
    """Describe the machine that measures.

    Parameters
    ----------
    root : Path
        Where the file system begins.

    Returns
    -------
    Environment
        Hard and soft keys.
    """
    info = text(root / "proc/cpuinfo")
    flags = (_field(info, "flags") or _field(info, "Features")).split()
    memory = psutil.virtual_memory().total >> 20
    return Environment(
        cpu_model=_cpu_model(info, root),
        arch=platform.machine(),
        isa=tuple(flag for flag in ISA_OF_INTEREST if flag in flags),
        cores_allowed=cores_allowed(),
        cpu_quota=cgroup.cpu_quota(root),
        memory_mib=max(1, min(memory, cgroup.memory_limit_mib(root) or memory)),
        gpus=_gpus(root),
        kernel=platform.release(),
        governor=text(root / CPUS / "cpu0/cpufreq/scaling_governor").strip() or None,
        turbo=_turbo(root),
        hypervisor=_hypervisor(flags, root),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", info, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _cpu_model(info: str, root: Path) -> str:
    # Arm kernels print no "model name"; single-board computers name the whole board instead.
    board = text(root / "proc/device-tree/model").strip("\0\n ")
    found = _field(info, "model name") or _field(info, "Model") or board
    if not found and platform.system() == "Darwin":
        found = answer("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return found or platform.processor() or platform.machine()


def _gpus(root: Path) -> tuple[str, ...]:
    """Name the NVIDIA GPUs: the driver's files cost nothing, and where they are hidden we ask."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    names = [found for file in files if (found := _field(text(file), "Model"))]
    if not names and root == HERE:
        listed = answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
        names = [line.strip() for line in listed.splitlines() if line.strip()]
    return tuple(names)


def _turbo(root: Path) -> bool | None:
    off = text(root / CPUS / "intel_pstate/no_turbo").strip()
    if off in ("0", "1"):
        return off == "0"
    on = text(root / CPUS / "cpufreq/boost").strip()
    return on == "1" if on in ("0", "1") else None


def _hypervisor(flags: list[str], root: Path) -> bool | None:
    if "hypervisor" in flags or text(root / "sys/hypervisor/type"):
        return True
    # x86 sets the flag on every virtual machine; elsewhere its absence says nothing.
    return False if flags and "fpu" in flags else None


def cores_allowed() -> int:
    """Count the cores that this process may run on, which can be fewer than the host has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_available(root: Path = HERE) -> int:
    """Count the threads that can run at once here: cores allowed, or the quota's if fewer."""
    return threads_at_once(cores_allowed(), cgroup.cpu_quota(root))


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
        True if every given field of the profile's ``match`` agrees; if none is given, whether it
        is a profile of any host. (One that inherits from such a profile says more.)
    """
    match = profile.match
    checks = [
        re.search(match.cpu_model, here.cpu_model) is not None if match.cpu_model else None,
        match.arch == here.arch if match.arch else None,
        here.cores_allowed >= match.min_cores if match.min_cores else None,
    ]
    given = [check for check in checks if check is not None]
    return all(given) if given else match.any_host


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

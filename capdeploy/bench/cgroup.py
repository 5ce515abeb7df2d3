"""What a container or a service may use of its machine: Linux control groups, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capdeploy.bench.files import text

# Version 1 writes "no limit" as the largest multiple of a page; no machine has that much.
UNLIMITED = 1 << 60


def cpu_quota(root: Path) -> float | None:
    """Read the CPU quota.

    Parameters
    ----------
    root : Path
        Where the file system begins.

    Returns
    -------
    float | None
        Cores; the least of this group's and all its parents', or None if none of them has one.
    """
    found = []
    for folder in _folders(root, ""):
        quota, _, period = text(folder / "cpu.max").strip().partition(" ")
        found.append(_ratio(quota, period))
    for folder in _folders(root, "cpu"):
        quota = text(folder / "cpu.cfs_quota_us").strip()
        found.append(_ratio(quota, text(folder / "cpu.cfs_period_us").strip()))
    return min((cores for cores in found if cores is not None), default=None)


def memory_limit_mib(root: Path) -> int | None:
    """Read the memory limit.

    Parameters
    ----------
    root : Path
        Where the file system begins.

    Returns
    -------
    int | None
        MiB; the least of this group's and all its parents', or None if none of them has one.
    """
    files = [folder / "memory.max" for folder in _folders(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _folders(root, "memory")]
    found = [int(limit) for file in files if (limit := text(file).strip()).isdecimal()]
    return min((limit >> 20 for limit in found if 0 < limit < UNLIMITED), default=None)


def _ratio(quota: str, period: str) -> float | None:
    """Divide, where both are there: version 2 writes no limit as "max", version 1 as -1."""
    if not quota.isdecimal() or not period.isdecimal() or 0 in (int(quota), int(period)):
        return None
    return int(quota) / int(period)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """List the folders of this process's group and of its parents, up to the mount.

    Parameters
    ----------
    root : Path
        Where the file system begins.
    controller : str
        A controller of version 1, or "" for version 2.

    Yields
    ------
    Path
        Some of them may not exist: a container often sees only its own, as the mount itself.
    """
    mount = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        # Version 1 mounts controllers together and links each name to their folder.
        base = mount / controller
        own = base / path.strip("/")
        yield own
        yield from (parent for parent in own.parents if parent.is_relative_to(base))

"""The machine that measured, and whether another is so like it that their numbers compare."""

from __future__ import annotations

import hashlib
import json
import math

from pydantic import Field

from capdeploy.values.noun import Noun

# NumPy is a package too, but none of its code runs inside a timed inference.
RUNTIME_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino")
FINGERPRINT_LENGTH = 12
ABSENT = "none"


class Environment(Noun):
    """The machine that measured.

    Hard keys change what a latency can be: across different ones absolute numbers do not compare.
    Soft keys shift it a little, or are only worth knowing.
    """

    cpu_model: str
    arch: str
    isa: tuple[str, ...]
    cores_allowed: int = Field(ge=1)
    cpu_quota: float | None = Field(default=None, description="cores, from the cgroup")
    memory_mib: int = Field(ge=1, description="of the machine, or of its cgroup if that is less")
    gpus: tuple[str, ...] = Field(default=(), description="models")
    kernel: str
    governor: str | None = Field(default=None, description="of the CPU's frequency")
    turbo: bool | None = None
    hypervisor: bool | None = Field(default=None, description="true on a virtual machine")
    python: str
    packages: dict[str, str]

    @property
    def threads_available(self) -> int:
        """The threads that can run at once."""
        return threads_at_once(self.cores_allowed, self.cpu_quota)

    @property
    def memory_class(self) -> str:
        """The memory as it is sold: kernels and firmware keep a part that varies from boot to boot.

        Examples
        --------
        >>> here = dict(cpu_model="x", arch="x", isa=(), cores_allowed=1, kernel="", python="",
        ...             packages={})
        >>> [Environment(memory_mib=mib, **here).memory_class for mib in (926, 3790, 11_800)]
        ['1 GiB', '4 GiB', '12 GiB']
        """
        gib = self.memory_mib / 1024
        power = 2.0 ** math.ceil(math.log2(gib))
        # Between the powers of two there are 3, 6, 12, 24, ... GiB.
        return f"{power * 0.75 if gib <= power * 0.75 else power:g} GiB"

    def hard_keys(self) -> dict[str, str]:
        """Give what must agree before two absolute latencies may be compared.

        Returns
        -------
        dict[str, str]
            Names and values, in words.
        """
        keys = {
            "CPU model": self.cpu_model,
            "architecture": self.arch,
            "instruction sets": " ".join(sorted(self.isa)) or ABSENT,
            "cores allowed": str(self.cores_allowed),
            "CPU quota": ABSENT if self.cpu_quota is None else f"{self.cpu_quota:g} cores",
            "memory": self.memory_class,
            "GPU": ", ".join(self.gpus) or ABSENT,
        }
        versions = {f"{name} version": self.packages.get(name) for name in RUNTIME_PACKAGES}
        return keys | {name: found for name, found in versions.items() if found}

    def soft_keys(self) -> dict[str, str]:
        """Give what is worth knowing and forbids no comparison, in words."""
        return {
            "kernel": self.kernel,
            "CPU governor": self.governor or "unknown",
            "turbo": _said(self.turbo, "on", "off"),
            "hypervisor": _said(self.hypervisor, "yes", "no"),
            "python": self.python,
        }

    @property
    def fingerprint(self) -> str:
        """The hard keys in 12 characters: equal for machines whose numbers compare."""
        text = json.dumps(self.hard_keys(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]

    def differing(self, other: Environment) -> tuple[str, ...]:
        """Name the hard keys in which two machines differ.

        Parameters
        ----------
        other : Environment
            What to compare with.

        Returns
        -------
        tuple[str, ...]
            One line for each, with both values, this machine's first; empty if they compare.
        """
        mine, theirs = self.hard_keys(), other.hard_keys()
        return tuple(
            f"{name}: {mine.get(name, ABSENT)} against {theirs.get(name, ABSENT)}"
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name, ABSENT) != theirs.get(name, ABSENT)
        )


def threads_at_once(cores: int, quota: float | None) -> int:
    """Count the threads that can run at once.

    Parameters
    ----------
    cores : int
        Cores allowed.
    quota : float | None
        Cores that the cgroup pays for, if it limits them.

    Returns
    -------
    int
        The cores allowed, or the whole cores of the quota if those are fewer; at least 1.

    Examples
    --------
    >>> threads_at_once(8, None), threads_at_once(8, 2.5), threads_at_once(2, 0.5)
    (8, 2, 1)
    """
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def _said(value: bool | None, yes: str, no: str) -> str:
    return "unknown" if value is None else yes if value else no

"""Which parts of an instruction set speed networks up, and what it costs to lack one."""

from __future__ import annotations

from capdeploy.values.doctor import InstructionSet
from capdeploy.values.environment import Environment

# Name, the flags of which one is enough, what it does, and what its absence means.
Part = tuple[str, tuple[str, ...], str, str]
X86: tuple[Part, ...] = (
    ("AVX2", ("avx2",), "FP32 and INT8 in 256-bit registers",
     "FP32 and INT8 run in 128-bit registers or narrower, INT8 gains little over FP32"),
    ("AVX-512", ("avx512f",), "FP32 in 512-bit registers", "FP32 runs in 256-bit registers"),
    ("VNNI", ("avx512_vnni", "avx_vnni"), "INT8 products summed in one instruction",
     "INT8 takes three instructions for one and gains little over FP32; sums of u8 x s8 can "
     "saturate, so quantise weights to 7 bits"),
    ("AMX", ("amx_int8",), "INT8 on matrix tiles", "INT8 runs on vectors, not on matrix tiles"),
)  # fmt: skip
ARM: tuple[Part, ...] = (
    ("NEON", ("asimd",), "FP32 in 128-bit registers", "FP32 runs one number at a time"),
    ("NEON dotprod", ("asimddp",), "INT8 products summed in one instruction",
     "INT8 is widened to 16 bits first and gains little over FP32"),
    ("I8MM", ("i8mm",), "INT8 on small matrices", "INT8 runs on vectors, not on small matrices"),
)  # fmt: skip
FAMILIES = {"x86_64": X86, "amd64": X86, "i686": X86, "aarch64": ARM, "arm64": ARM}


def instruction_sets(here: Environment) -> tuple[InstructionSet, ...]:
    """Say what this machine's instruction set means for FP32 and INT8.

    Parameters
    ----------
    here : Environment
        This machine.

    Returns
    -------
    tuple[InstructionSet, ...]
        The parts that its architecture could have; empty if the system does not tell its flags.
    """
    if not here.isa:
        return ()
    return tuple(
        InstructionSet(name=name, present=present, meaning=gain if present else loss)
        for name, flags, gain, loss in FAMILIES.get(here.arch.lower(), ())
        for present in [bool(set(flags) & set(here.isa))]
    )

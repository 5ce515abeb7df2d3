"""How small a difference this machine can tell, measured with a workload of our own."""

from __future__ import annotations

from pathlib import Path

from capdeploy.bench import effect
from capdeploy.bench.contest import Sampling
from capdeploy.bench.processes import Processes
from capdeploy.bench.reference import Reference
from capdeploy.values.gate import Effect
from capdeploy.values.profile import Gate
from capdeploy.values.report import Settings


def noise_floor(*, blocks: int = 3) -> float:
    """Measure how far a workload of our own seems to be from itself on this machine.

    Parameters
    ----------
    blocks : int
        Processes to measure.

    Returns
    -------
    float
        A share.
    """
    return effect.noise(_reference(blocks))


def smallest_visible(*, blocks: int = 5) -> float:
    """Measure the smallest slowdown of one thread that a gate could call one here, as a share.

    Parameters
    ----------
    blocks : int
        Processes to measure.

    Returns
    -------
    float
        The margin that its noise asks for, and the half-width of an interval on top.
    """
    found = _reference(blocks)
    return max(Gate().min_effect, 2 * effect.noise(found)) + found.half_width


def _reference(blocks: int) -> Effect:
    runtime = str(Reference.effective["runtime"])
    settings = Settings(bundle="reference", runtime=runtime, device="cpu", threads=1)
    ring = Processes(Path(), Path(), settings, Sampling())
    return effect.estimate(effect.log_ratios(ring.blocks(blocks), "cpu"))

"""One row of a gate: how much is measured, and what the raw values mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from capdeploy.bench import effect
from capdeploy.values.gate import Block, GateRow
from capdeploy.values.profile import HardwareProfile
from capdeploy.values.report import Settings

BLOCKS, BLOCKS_TOGETHER, CALIBRATION, ROUNDS = 5, 8, 2, 8
# An ambiguous row gets as many blocks again, at most twice: 5, 10, 20.
DOUBLINGS = 2


@dataclass(frozen=True)
class Sampling:
    """How much is measured.

    Parameters
    ----------
    blocks : int
        Processes of a row, before any are added.
    calibration : int
        Processes in which base is measured against itself.
    rounds : int
        Rounds of each side in one process.
    doublings : int
        How often the blocks of an ambiguous row are doubled, at most.
    seed : int
        Of the order of opening and of the bootstrap.
    together : int
        Rows that are judged together, if more than one call makes them.
    percentile : float
        What a round reports of its calls, 0..100.
    """

    blocks: int = BLOCKS
    calibration: int = CALIBRATION
    rounds: int = ROUNDS
    doublings: int = DOUBLINGS
    seed: int = 0
    together: int = 1
    percentile: float = 50


class Ring(Protocol):
    """What makes blocks of one row."""

    def blocks(self, count: int, *, itself: bool = False) -> list[Block]:
        """Measure some more blocks: head against base, or base against itself."""


def contest(
    ring: Ring,
    settings: Settings,
    profile: HardwareProfile,
    sampling: Sampling,
    *,
    floor: float = 0.0,
    rows: int = 1,
) -> GateRow:
    """Measure one row: base against itself, then head against base, more only while ambiguous.

    Parameters
    ----------
    ring : Ring
        Makes blocks.
    settings : Settings
        How it runs.
    profile : HardwareProfile
        What change counts and what noise is bearable.
    sampling : Sampling
        How much is measured.
    floor : float
        Noise that an earlier calibration found, a share.
    rows : int
        How many rows are judged together.

    Returns
    -------
    GateRow
        The row's last judgement.
    """
    calibration = ring.blocks(sampling.calibration, itself=True)
    least = profile.gate.effect_of(settings.runtime)
    for _ in range(sampling.doublings):
        # Two blocks may look noisy by one burst; whether the machine is, more of them tell.
        if 2 * own_noise(settings, calibration, sampling.seed) <= least:
            break
        calibration += ring.blocks(len(calibration), itself=True)
    # The median of five blocks can bear out 95 % at most; rows judged together need 99 %.
    blocks = ring.blocks(sampling.blocks if rows == 1 else max(sampling.blocks, BLOCKS_TOGETHER))
    row = judged(settings, calibration, blocks, profile, floor=floor, rows=rows, seed=sampling.seed)
    for _ in range(sampling.doublings):
        if row.verdict != "inconclusive":
            break
        blocks += ring.blocks(len(blocks))
        row = judged(
            settings, calibration, blocks, profile, floor=floor, rows=rows, seed=sampling.seed
        )
    return row


def judged(
    settings: Settings,
    calibration: Sequence[Block],
    blocks: Sequence[Block],
    profile: HardwareProfile,
    *,
    floor: float,
    rows: int,
    seed: int,
) -> GateRow:
    """Judge one row from its raw values. Pure.

    Parameters
    ----------
    settings : Settings
        How it ran.
    calibration : Sequence[Block]
        Base against itself.
    blocks : Sequence[Block]
        Head against base.
    profile : HardwareProfile
        What change counts and what noise is bearable.
    floor : float
        Noise that an earlier calibration found, a share.
    rows : int
        How many rows are judged together: with several, each interval is wider (99 %).
    seed : int
        Of the bootstrap.

    Returns
    -------
    GateRow
        The ratios by both clocks and the answer.
    """
    clock = clock_of(settings)
    alone = clock == "cpu"
    level = 0.95 if rows == 1 else 0.99
    found = max(own_noise(settings, calibration, seed), floor)
    least = profile.gate.effect_of(settings.runtime)
    margin = max(least, 2 * found)
    wall = effect.estimate(effect.log_ratios(blocks, "wall"), level=level, seed=seed)
    cpu = effect.estimate(effect.log_ratios(blocks, "cpu"), level=level, seed=seed)
    verdict, reason = effect.judge(
        cpu if alone else wall, wall if alone else None,
        least=least, margin=margin, noise=found, most_noise=profile.gate.max_noise,
    )  # fmt: skip
    return GateRow(
        settings=settings, judged_by=clock, wall=wall, cpu=cpu, noise=found, margin=margin,
        verdict=verdict, reason=reason, blocks=tuple(blocks), calibration=tuple(calibration),
    )  # fmt: skip


def own_noise(settings: Settings, calibration: Sequence[Block], seed: int) -> float:
    """Tell how far base seems to be from itself, as a share."""
    ratios = effect.log_ratios(calibration, clock_of(settings))
    return effect.noise(effect.estimate(ratios, level=0.95, seed=seed))


def clock_of(settings: Settings) -> effect.Clock:
    """Choose the clock that judges a row.

    The CPU time of one thread does not change when the kernel takes its core away. Several
    threads wait for one another, and a GPU works while the CPU sleeps: there the wall clock counts.
    """
    return "cpu" if settings.device == "cpu" and settings.threads == 1 else "wall"

"""How much slower one side is than the other, with an interval, and what that means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from capdeploy.values.gate import Block, Effect, RowVerdict

DRAWS = 2000
Clock = Literal["wall", "cpu"]


def log_ratios(blocks: Sequence[Block], clock: Clock) -> list[npt.NDArray[np.float64]]:
    """Give each block's rounds as log(head / base) by one of the two clocks."""
    return [
        np.log(np.asarray(getattr(block, f"head_{clock}_ms")))
        - np.log(np.asarray(getattr(block, f"base_{clock}_ms")))
        for block in blocks
    ]


def estimate(
    blocks: Sequence[npt.NDArray[np.float64]], *, level: float = 0.95, seed: int = 0
) -> Effect:
    """Estimate a ratio from rounds that lie within blocks.

    Two rounds of one process share its memory layout and its moment, so they are not independent:
    the bootstrap draws blocks first and rounds within them second.

    Parameters
    ----------
    blocks : Sequence[npt.NDArray[np.float64]]
        For each block the (R,) logarithms of head over base, one for each round.
    level : float
        Confidence of the interval, in 0..1.
    seed : int
        Of the bootstrap: the same values give the same interval.

    Returns
    -------
    Effect
        The median of the blocks' medians, and its percentile-bootstrap interval.

    References
    ----------
    Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013, section 9 (a
    bootstrap over every level of repetition).
    """
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(blocks), size=(DRAWS, len(blocks)))
    medians = np.empty(drawn.shape)
    for number, block in enumerate(blocks):
        # A block that is drawn twice has its rounds drawn anew each time.
        places = drawn == number
        rounds = generator.integers(len(block), size=(int(places.sum()), len(block)))
        medians[places] = np.median(block[rounds], axis=1)
    found = np.median(medians, axis=1)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    center = float(np.median([np.median(block) for block in blocks]))
    return Effect(
        ratio=float(np.exp(center)),
        low=float(np.exp(min(low, center))),
        high=float(np.exp(max(high, center))),
        level=level,
    )


def noise(calibration: Effect) -> float:
    """Tell how far a side can seem to be from itself: the half-width, or the offset if larger."""
    return max(calibration.half_width, abs(calibration.ratio - 1))


def judge(
    effect: Effect,
    other: Effect | None,
    *,
    least: float,
    margin: float,
    noise: float,
    most_noise: float,
) -> tuple[RowVerdict, str]:
    """Turn a measured ratio into one of five answers.

    Parameters
    ----------
    effect : Effect
        The ratio that decides.
    other : Effect | None
        The same by the wall clock, where CPU time decides: it has to agree.
    least : float
        Smallest change that matters to the user, a share: within it, nothing has changed.
    margin : float
        Smallest change that this machine can tell, a share, at least `least`: beyond it, something
        has. In between there is no answer, so that noise cannot pass a slow network.
    noise : float
        Deviation of base against itself, a share.
    most_noise : float
        Above this the machine cannot judge at all.

    Returns
    -------
    tuple[RowVerdict, str]
        The answer, and one line that says why.
    """
    change = f"{effect.ratio - 1:+.1%} [{effect.low - 1:+.1%}, {effect.high - 1:+.1%}]"
    if noise > most_noise:
        return "too noisy", (
            f"base differs from itself by {noise:.1%}, at most {most_noise:.0%} is allowed; run on "
            "a quieter machine"
        )
    upper, lower = 1 + margin, 1 / (1 + margin)
    if effect.low > upper:
        if other is not None and other.ratio < 1 + margin / 2:
            return "inconclusive", f"CPU time {change}, but the wall clock {other.ratio - 1:+.1%}"
        return "regressed", f"{change}, beyond {margin:.1%}"
    if other is not None and other.low > upper:
        return "inconclusive", (
            f"the wall clock {other.ratio - 1:+.1%}, but CPU time {change}: it waits for something"
        )
    if effect.high < lower:
        return "faster", f"{change}, beyond {margin:.1%}"
    if effect.low >= 1 / (1 + least) and effect.high <= 1 + least:
        return "kept", f"{change}, within {least:.1%}"
    sees = f"; this machine tells only {margin:.1%}" if margin > least else ""
    return "inconclusive", f"{change} is not within {least:.1%} and not beyond{sees}"

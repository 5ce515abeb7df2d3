"""The gate's statistics on synthetic noise with bursts and drift, against a slow reference."""

import math
from collections import Counter

import numpy as np
import pytest

from capdeploy import profiles
from capdeploy.bench import contest, effect
from capdeploy.bench.contest import Sampling
from capdeploy.values.gate import Block, Effect
from capdeploy.values.report import Settings
from tests.references import bootstrap

SETTINGS = Settings(bundle="b", runtime="fake", device="cpu", threads=1)


class Weather:
    """A ring on a machine with layout luck, jitter, bursts and drift.

    Every process has its own luck (two sessions of one graph differ by about a percent), every
    round its jitter, now and then a neighbour makes one round half as slow again, and the whole
    machine drifts while it is measured.
    """

    def __init__(self, seed, slowdown=1.0, luck=0.008, jitter=0.015, burst=0.08):
        self.random = np.random.default_rng(seed)
        self.slowdown, self.luck, self.jitter, self.burst = slowdown, luck, jitter, burst
        self.speed = 1.0
        self.asked = 0

    def blocks(self, count, *, itself=False):
        self.asked += count
        return [self._block(1.0 if itself else self.slowdown) for _ in range(count)]

    def _block(self, slowdown):
        luck = np.exp(self.random.normal(0, self.luck, 2))
        rounds = []
        for _ in range(8):
            self.speed *= math.exp(self.random.normal(0.002, 0.01))
            values = self.speed * luck * (1.0, slowdown)
            values = values * np.exp(self.random.normal(0, self.jitter, 2))
            values *= np.where(self.random.random(2) < self.burst, 1.5, 1.0)
            rounds.append(values)
        base, head = np.array(rounds).T
        # CPU time does not see the neighbours' bursts whole, but is no cleaner otherwise here.
        return Block(
            first="base", base_wall_ms=tuple(base), head_wall_ms=tuple(head),
            base_cpu_ms=tuple(base), head_cpu_ms=tuple(head), calls=(1, 1),
        )  # fmt: skip


def verdicts(count, **weather):
    profile = profiles.load("this-host")
    return [
        contest.contest(Weather(seed, **weather), SETTINGS, profile, Sampling())
        for seed in range(count)
    ]


def test_a_network_against_itself_is_no_regression():
    rows = verdicts(500)
    found = Counter(row.verdict for row in rows)
    assert found["regressed"] + found["faster"] <= 25, found
    assert found["kept"] >= 350, found


def test_twice_the_smallest_visible_slowdown_is_caught():
    visible = float(np.median([row.visible for row in verdicts(30)]))
    rows = verdicts(100, slowdown=1 + 2 * visible)
    assert sum(row.verdict == "regressed" for row in rows) >= 80
    assert all(row.verdict != "faster" for row in rows)


def test_a_much_faster_network_is_called_faster():
    rows = verdicts(30, slowdown=0.7)
    assert sum(row.verdict == "faster" for row in rows) >= 27


def test_a_machine_that_cannot_judge_says_so_and_is_not_red():
    rows = verdicts(60, luck=0.3, slowdown=1.1)
    found = Counter(row.verdict for row in rows)
    assert found["too noisy"] >= 45, found
    assert found["regressed"] <= 3, found


def test_more_is_measured_only_while_the_answer_is_open():
    profile = profiles.load("this-host")
    calm = Weather(0, luck=0.001, jitter=0.001, burst=0)
    assert contest.contest(calm, SETTINGS, profile, Sampling()).verdict == "kept"
    assert calm.asked == 2 + 5
    torn = Weather(0, luck=0.001, jitter=0.001, burst=0, slowdown=1.05)
    row = contest.contest(torn, SETTINGS, profile, Sampling())
    assert row.verdict == "inconclusive"
    assert torn.asked == 2 + 20
    assert len(row.blocks) == 20


@pytest.mark.parametrize("seed", range(4))
def test_the_bootstrap_agrees_with_the_slow_one(seed):
    random = np.random.default_rng(seed)
    blocks = [random.normal(0.05, 0.02, size=7) + random.normal(0, 0.02) for _ in range(6)]
    fast = effect.estimate(blocks, seed=seed)
    lists = [list(block) for block in blocks]
    center, low, high = bootstrap.hierarchical(lists, seed=seed, draws=4000)
    assert fast.ratio == pytest.approx(math.exp(center))
    width = math.log(fast.high / fast.low)
    assert math.log(fast.low) == pytest.approx(low, abs=0.12 * width)
    assert math.log(fast.high) == pytest.approx(high, abs=0.12 * width)


def test_the_same_values_give_the_same_interval():
    blocks = [np.random.default_rng(1).normal(size=8) for _ in range(5)]
    assert effect.estimate(blocks) == effect.estimate(blocks)


def test_a_wider_level_contains_a_narrower_one():
    blocks = [np.random.default_rng(n).normal(0, 0.02, size=8) for n in range(5)]
    narrow, wide = effect.estimate(blocks, level=0.95), effect.estimate(blocks, level=0.99)
    assert wide.low <= narrow.low
    assert wide.high >= narrow.high


def seen(ratio, low, high):
    return Effect(ratio=ratio, low=low, high=high, level=0.95)


@pytest.mark.parametrize(
    ("cpu", "wall", "noise", "verdict"),
    [
        ((1.00, 0.98, 1.02), (1.00, 0.97, 1.03), 0.01, "kept"),
        ((1.10, 1.06, 1.12), (1.11, 1.05, 1.15), 0.01, "regressed"),
        ((1.10, 1.04, 1.12), (1.11, 1.05, 1.15), 0.01, "inconclusive"),
        ((0.80, 0.78, 0.82), (0.80, 0.70, 0.90), 0.01, "faster"),
        ((0.96, 0.93, 0.99), (0.96, 0.93, 0.99), 0.01, "inconclusive"),
        ((1.10, 1.06, 1.12), (1.00, 0.97, 1.03), 0.01, "inconclusive"),
        ((1.00, 0.98, 1.02), (1.30, 1.20, 1.40), 0.01, "inconclusive"),
        ((1.50, 1.40, 1.60), (1.50, 1.40, 1.60), 0.20, "too noisy"),
        # A noisy machine may not pass what it cannot see.
        ((1.25, 1.24, 1.26), (1.25, 1.24, 1.26), 0.14, "inconclusive"),
        ((1.00, 0.98, 1.02), (1.00, 0.98, 1.02), 0.14, "kept"),
    ],
)
def test_the_table_of_answers(cpu, wall, noise, verdict):
    margin = max(0.05, 2 * noise)
    found, reason = effect.judge(
        seen(*cpu), seen(*wall), least=0.05, margin=margin, noise=noise, most_noise=0.15
    )
    assert found == verdict
    assert "%" in reason


def test_the_margin_grows_with_the_noise_and_not_below_the_profile_s():
    profile = profiles.load("this-host")
    loud = contest.contest(Weather(3, luck=0.03), SETTINGS, profile, Sampling())
    assert loud.margin == pytest.approx(max(profile.gate.min_effect, 2 * loud.noise))
    quiet = contest.contest(
        Weather(3, luck=0.0001, jitter=0.0001, burst=0), SETTINGS, profile, Sampling()
    )
    assert quiet.margin == profile.gate.min_effect
    picky = profile.model_copy(
        update={"gate": profile.gate.model_copy(update={"min_effect_of": {"fake": 0.02}})}
    )
    calm = contest.contest(
        Weather(3, luck=0.0001, jitter=0.0001, burst=0), SETTINGS, picky, Sampling()
    )
    assert calm.margin == 0.02
    stored = contest.contest(
        Weather(3, luck=0.0001, jitter=0.0001, burst=0), SETTINGS, profile, Sampling(), floor=0.04
    )
    assert stored.margin == pytest.approx(0.08)


def test_several_rows_widen_every_interval():
    profile = profiles.load("this-host")
    one = contest.contest(Weather(5), SETTINGS, profile, Sampling(doublings=0))
    many = contest.contest(Weather(5), SETTINGS, profile, Sampling(doublings=0), rows=4)
    assert (one.effect.level, many.effect.level) == (0.95, 0.99)
    assert (len(one.blocks), len(many.blocks)) == (5, 8)

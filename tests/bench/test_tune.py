"""Which multiple pays: synthetic kernels with known blocks, with noise, drift and bursts."""

import numpy as np
import pytest

from capdeploy.bench import tune
from capdeploy.bench.tune import MULTIPLES, WIDTHS
from capdeploy.progress import Quiet
from capdeploy.report import tuning as report
from capdeploy.values.environment import Environment
from capdeploy.values.tuning import Tuning

HERE = Environment(cpu_model="x", arch="x", isa=(), cores_allowed=1, memory_mib=1, kernel="",
                   python="", packages={})  # fmt: skip


def smooth(width):
    return 0.05 + 0.01 * width


def padded(block):
    """Kernels that pad to a block: the time is that of the next multiple."""
    return lambda width: smooth(-(-width // block) * block)


def cliff(block):
    """Kernels with a fast path for multiples of a block alone."""
    return lambda width: smooth(width) * (1 if width % block == 0 else 1.5)


def rounds(kernel, count=60, noise=0.0, drift=0.0, seed=0):
    random = np.random.default_rng(seed)
    times = np.tile([kernel(width) for width in WIDTHS], (count, 1))
    times *= np.exp(random.normal(0, noise, times.shape))
    return times * np.linspace(1, 1 + drift, count)[:, None]


def multiple(kernel, **how):
    return tune.decide("fake", "dense", WIDTHS, rounds(kernel, **how)).multiple


def test_the_widths_serve_every_comparison():
    for wanted in MULTIPLES:
        assert tune.excess(rounds(smooth), WIDTHS, wanted).shape == (60,)
    with pytest.raises(ValueError, match="no width half-way between two multiples of 64"):
        tune.excess(rounds(smooth), WIDTHS, 64)


def test_the_excess_is_what_the_definition_says():
    """Slow and plain, by hand: 40 between 32 and 48, 56 between 48 and 64."""
    times = rounds(cliff(16), count=1)[0]
    at = dict(zip(WIDTHS, times, strict=True))
    by_hand = np.mean([at[40] / ((at[32] + at[48]) / 2), at[56] / ((at[48] + at[64]) / 2)]) - 1
    assert tune.excess(times[None], WIDTHS, 16)[0] == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.5)


@pytest.mark.parametrize("align", [1, 2, 4, 8, 16, 32, 3, 6])
@pytest.mark.parametrize("block", [1, 4, 8, 16])
@pytest.mark.parametrize("kind", [padded, cliff])
def test_stairs_coarser_than_align_are_found(align, block, kind):
    widths = {width for each in tune.finer(align).values() for width in each}
    ms = {width: kind(block)(width) for width in widths}
    shows = block in tune.finer(align)
    assert tune.grain(ms, align) == (block if shows else 1)


def test_noise_is_no_stair():
    for seed in range(50):
        random = np.random.default_rng(seed)
        ms = {width: smooth(width) * float(np.exp(random.normal(0, 0.015))) for width in WIDTHS}
        assert tune.grain(ms, 8) == 1


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("block", MULTIPLES)
def test_a_fast_path_is_found(block, noise):
    assert multiple(cliff(block), noise=noise) == block


@pytest.mark.parametrize("block", [4, 8, 16])
def test_padding_is_found(block):
    found = tune.decide("fake", "dense", WIDTHS, rounds(padded(block), noise=0.02, count=200))
    by_multiple = {effect.multiple: effect for effect in found.effects}
    # A step of 4 in 56 channels is 7 %, half of it excess: just what is worth asking for.
    assert by_multiple[block].excess > tune.LEAST_EFFECT
    assert found.multiple <= block


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_smooth_kernels_like_no_multiple(noise):
    """A multiple is claimed by chance in less than 5 % of the sessions."""
    claimed = sum(multiple(smooth, noise=noise, seed=seed) > 1 for seed in range(60))
    assert claimed <= 3


def test_quadratic_growth_is_not_mistaken_for_a_block():
    assert multiple(lambda width: width**2 / 1000, noise=0.02) == 1


def test_drift_of_the_machine_cancels():
    assert multiple(smooth, noise=0.02, drift=1.0) == 1
    assert multiple(cliff(8), noise=0.02, drift=1.0) == 8


def test_what_noise_hides_is_unclear_and_not_claimed():
    """An effect of 6 % under noise of 30 %: neither claimed nor denied."""
    shares = np.random.default_rng(0).normal(0.04, 0.3, 40)
    found = tune.effect(shares, 16)
    assert found.verdict == "unclear"
    assert found.low < tune.LEAST_EFFECT < found.high
    assert tune.effect(shares / 1000 + 0.04, 16).verdict == "pays"
    assert tune.effect(shares / 1000, 16).verdict == "does not pay"


def tuning(*kernels, **how):
    probes = tuple(
        tune.decide(f"runtime{place}", "dense", WIDTHS, rounds(kernel, **how))
        for place, kernel in enumerate(kernels)
    )
    align = max(probe.multiple for probe in probes)
    return Tuning(environment=HERE, threads=1, align=align, probes=probes)


def test_the_overall_multiple_is_the_largest_of_the_runtimes():
    found = tuning(cliff(8), smooth)
    assert found.by_runtime == {"runtime0": 8, "runtime1": 1}
    assert found.align == 8
    assert found.unclear == ()
    assert Tuning.from_json(found.to_json()) == found
    table = report.table(found)
    assert [row[-1] for row in table.rows] == ["8", "1"]
    assert "align = 8" in table.notes[0]


def test_an_unclear_larger_multiple_is_told():
    found = tuning(cliff(4), noise=0.6, count=12)
    assert all(multiple > found.align for multiple in found.unclear)
    assert found.unclear
    assert "too noisy to tell" in report.table(found).notes[-1]


class Ticker:
    """A clock that the sessions move."""

    now = 0

    def now_ns(self):
        return self.now


class Session:
    def __init__(self, clock, ms, seen, name):
        self.clock, self.step, self.seen, self.name = clock, round(ms * 1e6), seen, name

    def run(self, batch):
        self.clock.now += self.step
        self.seen.append(self.name)


def test_sessions_are_timed_in_turns_and_in_changing_order():
    clock, seen = Ticker(), []
    sessions = [Session(clock, ms, seen, ms) for ms in (1.0, 2.0, 4.0)]
    batch = np.zeros((1, 3, 4, 4), np.float32)
    times = tune.in_turns(sessions, batch, clock, seconds=1.0, say=Quiet())
    assert times.shape[1] == 3
    assert len(times) >= tune.LEAST_ROUNDS
    assert np.allclose(times, [1.0, 2.0, 4.0])
    visits = seen[3 * 6 :]
    orders = {tuple(dict.fromkeys(visits[at : at + 9])) for at in range(0, len(visits) - 8, 9)}
    assert len(orders) > 1
    assert clock.now < 3e9

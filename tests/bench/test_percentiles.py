"""Percentiles with bounds: as the slow reference says, covering the truth as often as promised."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capdeploy.bench import stats
from tests.references import order_statistics


@given(
    values=st.lists(st.floats(0.01, 100), min_size=1, max_size=60),
    share=st.sampled_from([1, 10, 50, 75, 90, 99]),
    confidence=st.sampled_from(["0.8", "0.95", "0.99"]),
)
def test_bounds_are_the_reference_s(values, share, confidence):
    estimate, low, high = stats.percentile_bounds(values, share, float(confidence))
    assert (low, high) == order_statistics.bounds(values, share, Fraction(confidence))
    assert low <= high
    assert min(values) <= low
    assert high <= max(values)
    assert estimate == stats.percentile(values, share)


@pytest.mark.parametrize("share", [50, 90, 99])
def test_bounds_cover_the_truth_as_often_as_promised(share):
    generator = np.random.default_rng(0)
    truth = np.exp(0.1 * np.percentile(generator.standard_normal(2_000_000), share))
    hits = 0
    for _ in range(400):
        sample = np.exp(0.1 * generator.standard_normal(500))
        _, low, high = stats.percentile_bounds(sample, share)
        hits += low <= truth <= high
    assert 0.93 <= hits / 400 <= 1


@pytest.mark.parametrize(("share", "confidence"), [(50, 0.95), (90, 0.95), (99, 0.95), (99, 0.98)])
def test_a_sample_is_large_enough_from_exactly_there_on(share, confidence):
    """One value fewer, and even the extreme has too large a risk to lie on the wrong side."""
    least = stats.least_samples(share, confidence)
    tail = (1 - confidence) / 2
    assert (share / 100) ** least <= tail * (1 + 1e-9)
    assert (share / 100) ** (least - 1) > tail
    values = np.arange(1.0, least + 1)
    assert stats.percentile_bounds(values, share, confidence)[2] == least


def test_many_values_take_no_time_and_stay_exact():
    values = np.arange(1, 200_001)
    estimate, low, high = stats.percentile_bounds(values, 99)
    assert low < estimate < high
    # The normal approximation is good here: 1.96 * sqrt(n p (1 - p)) places.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(200_000 * 0.99 * 0.01), rel=0.03)


def test_one_value_is_its_own_bounds():
    assert stats.percentile_bounds([2.5], 99) == (2.5, 2.5, 2.5)

"""One sentence says whether numbers can be trusted, and why not."""

import re

import pytest

from capdeploy.values.noise import Noise

QUIET = {
    "seconds": 10, "load1": 0.5, "cores": 2, "pressure_some_pct": 0.4, "steal_pct": 0.0,
    "involuntary_switches": 12, "aa_half_width": 0.01,
}  # fmt: skip


def test_a_quiet_machine_is_trusted_and_the_signs_are_told():
    noise = Noise(**QUIET)
    assert noise.trusted
    assert noise.sentence == (
        "noise: nothing disturbed these numbers: in 10 s some task waited for a core 0.4 % of the "
        "time, the hypervisor took 0.0 % of the cores, the benchmark lost its core 1.2 times a "
        "second and a network differed from itself by 1.0%"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pressure_some_pct": 34.0}, r"waited for a core 34.0 % of the time \(quiet: "),
        ({"steal_pct": 8.0}, r"the hypervisor took 8.0 % of the cores \(quiet: 2.0 %\)"),
        ({"involuntary_switches": 2000}, r"lost its core 200 times a second \(quiet: "),
        ({"aa_half_width": 0.12}, r"differed from itself by 12.0% \(quiet: 5.0%\)"),
        ({"pressure_some_pct": None, "load1": 6.0}, r"3.0 tasks ran or waited for each core"),
    ],
)
def test_each_disturbance_alone_is_named(changes, words):
    noise = Noise(**(QUIET | changes))
    assert not noise.trusted
    assert re.search(words, noise.sentence)
    assert noise.sentence.count("quiet:") == 1
    assert "measure again" in noise.sentence


def test_load_says_nothing_where_the_kernel_tells_the_pressure():
    """A load average remembers minutes; a build that has just ended disturbs nobody any more."""
    assert Noise(**(QUIET | {"load1": 9.0})).trusted


def test_a_system_that_tells_nothing_is_not_called_quiet():
    noise = Noise(seconds=3)
    assert "does not tell how busy it was" in noise.sentence
    assert noise.trusted

"""Fingerprints: the same for machines whose numbers compare, and words for those that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capdeploy.values.environment import Environment, threads_at_once

HERE = {
    "cpu_model": "Xeon", "arch": "x86_64", "isa": ("avx2", "fma"), "cores_allowed": 4,
    "memory_mib": 15_800, "kernel": "6.1", "python": "3.11.7", "packages": {"torch": "2.15.0"},
}  # fmt: skip


def machine(**changes):
    return Environment(**(HERE | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu_model": "EPYC"}, "CPU model: Xeon against EPYC"),
        ({"arch": "aarch64"}, "architecture: x86_64 against aarch64"),
        ({"isa": ("avx2",)}, "instruction sets: avx2 fma against avx2"),
        ({"cores_allowed": 2}, "cores allowed: 4 against 2"),
        ({"cpu_quota": 1.5}, "CPU quota: none against 1.5 cores"),
        ({"memory_mib": 7_900}, "memory: 16 GiB against 8 GiB"),
        ({"gpus": ("Tesla T4",)}, "GPU: none against Tesla T4"),
        ({"packages": {"torch": "2.16.0"}}, "torch version: 2.15.0 against 2.16.0"),
        ({"packages": {}}, "torch version: 2.15.0 against none"),
    ],
)
def test_a_hard_key_changes_the_fingerprint_and_is_named(changes, words):
    here, there = machine(), machine(**changes)
    assert here.differing(there) == (words,)
    assert here.fingerprint != there.fingerprint
    assert len(there.differing(here)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "6.2"}, {"governor": "performance"}, {"turbo": True}, {"hypervisor": True},
        {"python": "3.12.1"}, {"memory_mib": 15_700}, {"isa": ("fma", "avx2")},
        {"packages": {"torch": "2.15.0", "numpy": "2.4.6"}},
    ],
)  # fmt: skip
def test_a_soft_key_does_not(changes):
    there = machine(**changes)
    assert machine().differing(there) == ()
    assert machine().fingerprint == there.fingerprint


def test_a_fingerprint_is_twelve_hexadecimal_characters_and_survives_json():
    here = machine(gpus=("a", "b"), cpu_quota=2.0)
    assert len(here.fingerprint) == 12
    assert set(here.fingerprint) <= set("0123456789abcdef")
    again = Environment.from_json(here.to_json())
    assert again == here
    assert again.fingerprint == here.fingerprint


def test_a_report_of_an_older_version_still_reads():
    assert Environment.from_plain(dict(HERE), source="old").gpus == ()


def test_soft_keys_say_what_is_not_known():
    assert machine().soft_keys()["turbo"] == "unknown"
    assert machine(turbo=False, hypervisor=True).soft_keys() | {
        "turbo": "off", "hypervisor": "yes"
    } == machine(turbo=False, hypervisor=True).soft_keys()  # fmt: skip


@given(cores=st.integers(1, 256), quota=st.none() | st.floats(0.01, 300))
def test_threads_never_exceed_what_is_paid_for_and_are_never_none(cores, quota):
    found = threads_at_once(cores, quota)
    assert 1 <= found <= cores
    assert quota is None or found <= max(1, quota)


@given(st.integers(64, 1 << 24))
def test_a_memory_class_holds_the_memory_and_not_twice_as_much(mib):
    size = float(machine(memory_mib=mib).memory_class.split()[0]) * 1024
    assert mib <= size * (1 + 1e-5)  # written with six digits
    assert size <= 2 * mib

"""Freed memory is kept while there is work, and only then."""

import json
import os
import platform
import subprocess
import sys

import pytest

from capdeploy import heap

WORK = """
import json, resource
import psutil, torch
from capdeploy import heap

def step():
    # As much as a training step on large images: pieces of 40 MB, all freed in the end.
    held = [torch.full((10 << 20,), 1.0) for _ in range(8)]

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return psutil.Process().memory_info().rss

found = {"plain": faults(5)}
with heap.kept():
    with heap.kept():
        faults(3)
    found["kept"] = faults(5)
    found["resident"] = resident()
found["left"] = resident()
print(json.dumps(found))
"""

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="musl, macOS and Windows have no mallopt, so nothing is kept that could be counted",
)


@glibc
def test_what_is_freed_is_kept_within_the_block_and_given_back_behind_it():
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, text=True, check=True, timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["kept"] < 0.01 * found["plain"], found
    assert found["resident"] - found["left"] > 250 << 20, found  # of 320 MB


@pytest.fixture
def forgotten():
    """What is known of the library is looked up anew, before the test and after it."""
    heap._functions.cache_clear()
    yield
    heap._functions.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_elsewhere_nothing_happens(monkeypatch):
    # The branch for another C library cannot be reached on a machine with this one.
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with heap.kept():
        assert heap._functions() == {}


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_tuned_the_library_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert heap._functions() == {}


def test_an_error_leaves_the_block_too():
    with pytest.raises(ZeroDivisionError), heap.kept():
        raise ZeroDivisionError
    assert heap._inside == 0

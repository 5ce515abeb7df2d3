"""Freed memory is kept while there is work, and only then."""

import json
import platform
import subprocess
import sys

import pytest

from capdeploy import heap

WORK = """
import contextlib, json, resource
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
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library is told anything"
)


@glibc
def test_what_is_freed_is_kept_within_the_block_and_given_back_behind_it():
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["kept"] < 0.01 * found["plain"], found
    assert found["resident"] - found["left"] > 250 << 20, found  # of 320 MB


def test_elsewhere_nothing_happens(monkeypatch):
    heap._functions.cache_clear()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with heap.kept():
        assert heap._functions() == {}
    heap._functions.cache_clear()


def test_an_error_leaves_the_block_too():
    with pytest.raises(ZeroDivisionError), heap.kept():
        raise ZeroDivisionError
    assert heap._inside == 0

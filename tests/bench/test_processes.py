"""Blocks that something else on the machine has slowed down are made again."""

import math
from pathlib import Path

import pytest

from capdeploy.bench.child import ChildDiedError
from capdeploy.bench.contest import Sampling
from capdeploy.bench.processes import AGAIN, Processes, pace
from capdeploy.values.gate import Block
from capdeploy.values.report import Settings

SETTINGS = Settings(bundle="x", runtime="onnxruntime", device="cpu", threads=1)


class Weather(Processes):
    """The machine is so slow in one block after the other."""

    def __init__(self, *speeds, heads=()):
        super().__init__(None, None, SETTINGS, Sampling())
        self.speeds, self.heads = list(speeds), list(heads or (speed**2 for speed in speeds))

    def _block(self, head):
        slow = self.speeds.pop(0)
        base, own = (10.0 * slow,) * 3, (self.heads.pop(0),) * 3
        return Block(
            first="base", base_wall_ms=base, head_wall_ms=own, base_cpu_ms=base, head_cpu_ms=own,
            calls=(3, 3), repeated=0, affinity=(), effective={},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("speeds", "best", "kept", "left"),
    [
        ((1.0, 1.04, 1.0), math.inf, [1.0, 1.04], 1),  # a quiet machine: no more than asked for
        ((1.3, 1.0, 1.25, 1.02), math.inf, [1.0, 1.02], 0),  # a busy one: until two were quiet
        ((1.3, 1.3, 1.01, 1.0), 10.0, [1.0, 1.01], 0),  # earlier candidates say what quiet is
        ((1.3, 1.3, 1.0, 1.0), math.inf, [1.3, 1.3], 2),  # nobody knows better yet
    ],
)
def test_the_calmest_blocks_count(speeds, best, kept, left):
    ring = Weather(*speeds)
    found = ring.calm(2, best)
    assert [pace(block) for block in found] == pytest.approx([10 * speed for speed in kept])
    assert len(ring.speeds) == left


def test_a_machine_that_is_never_quiet_does_not_hold_up_for_ever():
    ring = Weather(*(1.5 - 0.01 * number for number in range(20)))
    assert [pace(block) for block in ring.calm(2, 10.0)] == pytest.approx([14.5, 14.6])
    assert len(ring.speeds) == 20 - 2 - AGAIN


def test_what_the_head_took_does_not_pick_blocks():
    """Else a search would believe the luckiest measurement of each candidate."""
    for heads in ((1.0, 9.0), (9.0, 1.0)):
        ring = Weather(1.0, 1.0, heads=heads)
        assert sorted(block.head_wall_ms[0] for block in ring.calm(2, 10.0)) == [1.0, 9.0]


class Deaths(Processes):
    """Processes that live or die in a given order; remembers which side was run."""

    def __init__(self, *lives):
        super().__init__(Path("base"), Path("head"), SETTINGS, Sampling())
        self.lives, self.asked = list(lives), []

    def _block(self, head):
        self.asked.append(str(head))
        if not self.lives.pop(0):
            raise ChildDiedError("killed")
        return Block(
            first="base", base_wall_ms=(1.0,), head_wall_ms=(1.0,), base_cpu_ms=(1.0,),
            head_cpu_ms=(1.0,), calls=(3, 3), repeated=0, affinity=(), effective={},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("lives", "at_fault", "asked"),
    [
        ((1, 1), None, ["base", "head"]),
        ((1, 0, 1, 1), None, ["base", "head", "base", "head"]),  # once is no proof
        ((1, 0, 1, 0), "head", ["base", "head", "base", "head"]),
        ((1, 0, 0), "base", ["base", "head", "base"]),  # nothing runs here any more
        ((0, 1, 1), None, ["base", "base", "head"]),
        ((0, 0), "base", ["base", "base"]),
    ],
)
def test_a_process_that_dies_once_is_nobody_s_fault(lives, at_fault, asked):
    ring = Deaths(*lives)
    if at_fault is None:
        assert len(ring.blocks(1, itself=True) + ring.blocks(1)) == 2
    else:
        with pytest.raises(ChildDiedError, match="killed"):
            ring.blocks(1, itself=True), ring.blocks(1)
        assert ring.at_fault == at_fault
    assert ring.asked == asked

"""Threads are bound to whole, fast cores, where the system says which those are."""

import pytest

from capdeploy.bench import topology


def system(folder, cores):
    """Write what Linux says of each core: what names its speed, and the threads of its core."""
    for number, (speed, siblings) in enumerate(cores):
        place = folder / f"cpu{number}"
        (place / "topology").mkdir(parents=True)
        (place / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
        for name, value in speed.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(f"{value}\n")
    return folder


SLOW, FAST = {"cpu_capacity": 414}, {"cpu_capacity": 1024}
BOARD = [(SLOW, number) for number in range(4)] + [(FAST, number) for number in range(4, 8)]
QUICK = [{"cpufreq/cpuinfo_max_freq": 1000 * mhz} for mhz in (4900, 4900, 5000, 5000, 3800, 3800)]
LAPTOP = list(zip(QUICK, ("0-1", "0-1", "2-3", "2-3", "4", "5"), strict=True))
CLOUD = [({}, "0-1"), ({}, "0-1"), ({}, "2-3"), ({}, "2-3")]


@pytest.mark.parametrize(
    ("cores", "wanted", "ring"),
    [
        (BOARD, 1, [4, 5, 6, 7]),  # the slow ones have the first numbers
        (BOARD, 4, [4, 5, 6, 7]),
        (BOARD, 6, [4, 5, 6, 7, 0, 1, 2, 3]),
        (LAPTOP, 2, [0, 2]),  # a thread of each fast core
        (LAPTOP, 4, [0, 2, 1, 3]),
        (LAPTOP, 6, [0, 2, 1, 3, 4, 5]),
        (CLOUD, 2, [0, 2]),
        (CLOUD, 3, [0, 2, 1, 3]),
        (CLOUD[:2], 1, [0, 1]),  # where one thread is busy, turns take the other
    ],
)
def test_whole_and_fast_cores_come_first(tmp_path, cores, wanted, ring):
    assert topology.ring(range(len(cores)), wanted, system(tmp_path, cores)) == ring


def test_only_allowed_cores_count_and_silence_changes_nothing(tmp_path):
    assert topology.ring({5, 1, 2}, 1, system(tmp_path / "board", BOARD)) == [5]
    assert topology.ring({3, 1, 2}, 2, tmp_path / "nowhere") == [1, 2, 3]
    assert topology.ring({0}, 4, tmp_path / "nowhere") == [0]

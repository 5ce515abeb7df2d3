"""Threads work ahead, but not far; order and exceptions come out as if there were none."""

import threading
import time

import pytest

from capdeploy.workers import AHEAD, cores, in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_kept(workers):
    def slow_first(item):
        time.sleep(0.002 * (7 - item % 8))
        return item * item

    found = [
        (item, task.result()) for item, task in in_order(slow_first, range(40), workers=workers)
    ]
    assert found == [(item, item * item) for item in range(40)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_nothing_gives_nothing(workers):
    assert list(in_order(abs, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_only_a_few_are_done_ahead(workers):
    begun, drawn = [], []
    lock = threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        return item

    def items():
        for item in range(200):
            drawn.append(item)
            yield item

    ahead = []
    for taken, (_, task) in enumerate(in_order(work, items(), workers=workers)):
        if taken % 50 == 0:
            time.sleep(0.02)  # a slow reader: workers do all that they may
        task.result()
        with lock:
            ahead.append(max(len(begun), len(drawn)) - taken - 1)
    assert max(ahead) <= AHEAD * workers
    if workers:
        assert max(ahead) > 0  # but ahead they are


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_belongs_to_its_task(workers):
    def work(item):
        if item % 3 == 1:
            raise ValueError(f"item {item}")
        return item

    good, bad = [], []
    for item, task in in_order(work, range(10), workers=workers):
        if item % 3 == 1:
            with pytest.raises(ValueError, match=f"item {item}"):
                task.result()
            bad.append(item)
        else:
            good.append(task.result())
    assert good == [0, 2, 3, 5, 6, 8, 9]
    assert bad == [1, 4, 7]


def settled(before):
    for _ in range(500):
        if threading.active_count() <= before:
            return True
        time.sleep(0.01)
    return False


def test_a_reader_who_leaves_stops_the_work():
    begun = []
    before = threading.active_count()

    def work(item):
        begun.append(item)
        time.sleep(0.01)

    tasks = in_order(work, range(10_000), workers=2)
    next(tasks)
    tasks.close()
    assert settled(before)
    assert len(begun) <= 4  # what was being done is ended, what waited is not begun


def test_the_threads_themselves_may_clear_a_forgotten_reader_away():
    """As the garbage collector does that runs in one of them."""
    before = threading.active_count()
    left, cleared = [], threading.Event()

    def work(item):
        if item == 3:
            while not left:
                time.sleep(0.001)
            left.pop().close()
            cleared.set()
        return item

    tasks = in_order(work, range(100), workers=1)
    next(tasks)
    left.append(tasks)
    assert cleared.wait(5)
    assert settled(before)


def test_results_may_be_asked_for_after_all_was_handed_out():
    def work(item):
        time.sleep(0.005)
        return item

    tasks = list(in_order(work, range(20), workers=2))
    assert [task.result() for _, task in tasks] == list(range(20))


def test_cores_are_those_of_this_process():
    assert cores() >= 1

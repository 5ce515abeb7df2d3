"""Threads that work a little ahead, and wait when nobody takes what they did."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 4  # tasks that wait for each worker

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Work on items in threads and yield them in their order; only a few are done ahead.

    Parameters
    ----------
    work : Callable[[Item], Result]
        What to do with each; what it raises is raised by the task's ``result``.
    items : Iterable[Item]
        The items.
    workers : int
        Threads; 0: do each when it is its turn.

    Yields
    ------
    tuple[Item, Future[Result]]
        Each item with its task.
    """
    if not workers:
        for item in items:
            task: Future[Result] = Future()
            try:
                task.set_result(work(item))
            except Exception as error:  # as a thread would keep it
                task.set_exception(error)
            yield item, task
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # Not waiting: a reader that has left may be cleared away by one of these very threads.
        pool.shutdown(wait=False, cancel_futures=bool(waiting))

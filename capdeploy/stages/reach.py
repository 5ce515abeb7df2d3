"""Limits that no network meets cost a run their own bundle, and not those of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from capdeploy.errors import BudgetError
from capdeploy.progress import Say

Asked = TypeVar("Asked")
Found = TypeVar("Found")


def within_reach(
    asked: Iterable[Asked], answer: Callable[[Asked], Found], say: Say, *, enough: bool
) -> tuple[list[Found], tuple[str, ...]]:
    """Answer everything that can be answered.

    Parameters
    ----------
    asked : Iterable[Asked]
        Budgets, or plans for them.
    answer : Callable[[Asked], Found]
        Raises `BudgetError` for what no network meets.
    say : Say
        Hears of what is out of reach.
    enough : bool
        Whether no answer at all is still something: the head-cut network was asked for, too.

    Returns
    -------
    tuple[list[Found], tuple[str, ...]]
        The answers, and a line for each that there is none for.

    Raises
    ------
    BudgetError
        If there is no answer at all, and that is not enough.
    """
    found: list[Found] = []
    beyond: list[str] = []
    for each in asked:
        try:
            found.append(answer(each))
        except BudgetError as error:
            beyond.append(str(error))
    if beyond and not found and not enough:
        raise BudgetError("; ".join(beyond))
    for line in beyond:
        say.note(f"{line}; what else was asked for goes on")
    return found, tuple(beyond)

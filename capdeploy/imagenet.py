"""The 1,000 classes of ImageNet (Russakovsky et al., IJCV 115, 2015): ids of WordNet and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CLASSES = 1000
_TABLE = Path(__file__).with_name("_imagenet_classes.txt")


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Return the words for each class.

    Returns
    -------
    dict[str, tuple[str, ...]]
        WordNet id (``n01440764``) to words, the usual one first; in output order.

    Examples
    --------
    >>> synonyms()["n02123045"]
    ('tabby', 'tabby cat')
    """
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if not line.startswith("#"))
    return {wnid: tuple(words.split(", ")) for wnid, words in pairs}


@cache
def names() -> tuple[str, ...]:
    """Return one name for each class, in output order; the id is added where two share a word.

    Returns
    -------
    tuple[str, ...]
        1,000 different names.

    Examples
    --------
    >>> names()[0], names()[134]
    ('tench', 'crane (n02012849)')
    """
    table = synonyms()
    shared = Counter(words[0] for words in table.values())
    return tuple(
        words[0] if shared[words[0]] == 1 else f"{words[0]} ({wnid})"
        for wnid, words in table.items()
    )


@cache
def output_of() -> dict[str, int]:
    """Return the usual output of each WordNet id, 0..999."""
    return {wnid: index for index, wnid in enumerate(synonyms())}


def all_known(wnids: Iterable[str]) -> bool:
    """Tell whether all names are ids of these classes."""
    return all(wnid in output_of() for wnid in wnids)

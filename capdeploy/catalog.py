"""How a shelf finds its members: the file is the registration.

A shelf is a package whose modules each bind one well-known name (``STRATEGY``, ``RUNTIME``, ...).
Listing the members reads file names and imports nothing, so ``--help`` stays fast; loading one
imports one module.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

from capdeploy.errors import ConfigError, MissingExtraError

Member = TypeVar("Member")
# Which extra brings a member's own library; all others come with [compress].
EXTRAS = {
    "timm": "timm", "pyarrow": "hf", "tensorboard": "tensorboard", "wandb": "wandb",
    "mlflow": "mlflow", "sqlalchemy": "mlflow", "alembic": "mlflow",
}  # fmt: skip


class Catalog(Generic[Member]):
    """The members of one shelf.

    Parameters
    ----------
    package : str
        Dotted name of the shelf, for example ``capdeploy.strategies``.
    attribute : str
        The name that each member module binds, for example ``STRATEGY``.
    noun : str
        What a member is called in messages.
    """

    def __init__(self, package: str, attribute: str, noun: str) -> None:
        self._package = package
        self._attribute = attribute
        self._noun = noun

    def names(self) -> tuple[str, ...]:
        """List the members in alphabetical order, importing none of them."""
        folder = Path(__file__).parent / self._package.rpartition(".")[2]
        modules = (module.name for module in pkgutil.iter_modules([str(folder)]))
        return tuple(sorted(name for name in modules if not name.startswith("_")))

    def require(self, name: str) -> None:
        """Refuse a name that no member has, importing none of them.

        Parameters
        ----------
        name : str
            Perhaps one that `names` lists.

        Raises
        ------
        ConfigError
            If no member has that name; the nearest names are offered.
        """
        if name not in self.names():
            raise ConfigError(f"unknown {self._noun} '{name}'; {nearest(name, self.names())}")

    def load(self, name: str) -> Member:
        """Import one member.

        Parameters
        ----------
        name : str
            A name that `names` lists.

        Returns
        -------
        Member
            What the member's module binds.

        Raises
        ------
        ConfigError
            If no member has that name; the nearest names are offered.
        MissingExtraError
            If the member's own dependency is not installed.
        """
        self.require(name)
        try:
            module = importlib.import_module(f"{self._package}.{name}")
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "capdeploy" or not missing:
                raise
            raise MissingExtraError(missing, EXTRAS.get(missing, "compress")) from error
        return cast(Member, getattr(module, self._attribute))


def listed(names: Sequence[str], *, most: int = 3) -> str:
    """List names in a message, and say how many are left out.

    Parameters
    ----------
    names : Sequence[str]
        What is listed.
    most : int
        How many of them are spelt out.

    Returns
    -------
    str
        A clause.

    Examples
    --------
    >>> listed(("a", "b", "c", "d", "e"))
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: tuple[str, ...], *, most: int = 12) -> str:
    """Say which known names come closest to an unknown one.

    Parameters
    ----------
    name : str
        The name that is not known.
    known : tuple[str, ...]
        The names that are.
    most : int
        How many to list when none is close.

    Returns
    -------
    str
        A clause for an error message.

    Examples
    --------
    >>> nearest("ocpa", ("lrp", "ocap"))
    'did you mean ocap?'
    >>> nearest("zzz", ("lrp", "ocap"))
    'known: lrp, ocap'
    """
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(lowered[match] for match in close)}?"
    more = f", ... ({len(known)} in all)" if len(known) > most else ""
    return f"known: {', '.join(known[:most])}{more}"

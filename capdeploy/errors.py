"""Every way capdeploy stops, and the exit code of each.

::

    CapdeployError                    exit
    ├── NegativeVerdictError             1   the work ran, the answer is no
    │   ├── ParityError                      an exported graph answers differently
    │   ├── DigestError                      a bundle is not what its manifest says
    │   └── BudgetError                      a measured budget is missed
    ├── UsageError                       2   the request cannot be served as written
    │   ├── ConfigError                      recipe, profile, flag or JSON document
    │   ├── CheckpointError                  file unreadable, or it does not fit the network
    │   ├── ArchitectureError                unknown, or its head cannot be found
    │   ├── DataError                        data set missing, empty, or with bad images
    │   ├── ClassesError                     unknown, repeated, ambiguous or too few classes
    │   ├── PlanError                        nothing can be cut as asked
    │   ├── UntrustedError                   code outside capdeploy would have to run
    │   └── OutputExistsError                the output folder is there already
    ├── MissingError                     3   this machine lacks something
    │   ├── MissingExtraError                an optional package is not installed
    │   ├── MissingDeviceError               the device is not here
    │   └── SilentFallbackError              a runtime ran elsewhere than asked
    └── StepFailedError                  4   a step broke although the request was sound

    inconclusive under --strict          5   (no exception: a verdict)
    KeyboardInterrupt                  130

A message is one line that names the thing, what was found, what was expected and what to do. What a
file put into it (keys, names) is escaped, so that no file writes to a terminal in our name.
"""

from __future__ import annotations

from typing import ClassVar

INTERRUPTED = 130


class CapdeployError(Exception):
    """Base of every error that capdeploy raises on purpose."""

    exit_code: ClassVar[int] = 4

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Escape line ends, control characters and halves of surrogate pairs.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        One line that any terminal and any encoding can take.

    Examples
    --------
    >>> printable("two\nlines")
    'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class NegativeVerdictError(CapdeployError):
    """The work was done and its result is not acceptable."""

    exit_code = 1


class ParityError(NegativeVerdictError):
    """An exported graph does not answer as the network does."""


class DigestError(NegativeVerdictError):
    """A bundle's files are not those that its manifest describes."""


class BudgetError(NegativeVerdictError):
    """A measured budget of the hardware profile is missed."""


class UsageError(CapdeployError):
    """The request cannot be served as it is written."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe, profile, option or JSON document is not valid."""


class CheckpointError(UsageError):
    """A checkpoint cannot be read, or does not fit its architecture."""


class ArchitectureError(UsageError):
    """An architecture is unknown, cannot be built, or has no head that can be cut."""


class DataError(UsageError):
    """A data set is missing, empty, or holds unreadable images."""


class ClassesError(UsageError):
    """The chosen classes are unknown, repeated, ambiguous or too few."""


class PlanError(UsageError):
    """No plan meets the request."""


class UntrustedError(UsageError):
    """Code that the user has not vouched for would have to run."""


class OutputExistsError(UsageError):
    """The output folder exists and may not be overwritten."""


class MissingError(CapdeployError):
    """What the request needs is missing on this machine."""

    exit_code = 3


class MissingExtraError(MissingError):
    """An optional dependency is not installed; the message holds the command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed, and this needs it: pip install 'capdeploy[{extra}]'"
        )


class MissingDeviceError(MissingError):
    """The requested device is not on this machine."""


class SilentFallbackError(MissingError):
    """A runtime answered from another device than the one that was asked for."""


class StepFailedError(CapdeployError):
    """A step of the street failed although the request was sound."""

    exit_code = 4

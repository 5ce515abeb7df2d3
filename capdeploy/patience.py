"""How long torch's threads spin for each other before they sleep: less than by default.

Between the operations of a training step torch's threads wait by spinning, some milliseconds long
with GNU OpenMP. On a machine whose cores others use too, the thread that is waited for may have
none, and the one that spins keeps the core that it lacks: a command then takes several times as
long. A spin shorter than that, and longer than the pauses of a step, costs nothing that counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE, SPINS = "GOMP_SPINCOUNT", "10000"
TUNED = (VARIABLE, "OMP_WAIT_POLICY")


def shorten() -> None:
    """Spin less in this process, if torch is not here yet, and in those that it begins.

    Where the environment tunes it already nothing changes.
    """
    if not any(name in os.environ for name in TUNED):
        os.environ[VARIABLE] = SPINS


def untouched(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `shorten` did: what is measured has the default.

    Parameters
    ----------
    environment : Mapping[str, str]
        Variables and their values.

    Returns
    -------
    dict[str, str]
        A copy.
    """
    return {
        name: value for name, value in environment.items() if (name, value) != (VARIABLE, SPINS)
    }

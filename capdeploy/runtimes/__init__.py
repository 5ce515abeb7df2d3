"""What runs a bundle. One file per runtime; the door imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from capdeploy.catalog import Catalog
from capdeploy.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from capdeploy.bundle import Bundle


class Session(Protocol):
    """A bundle opened in a runtime, ready to answer."""

    @property
    def effective(self) -> Mapping[str, str]:
        """Settings read back from the runtime, never those that were asked for."""

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch: (N, 3, H, W) in host memory to (N, k) in host memory."""

    def close(self) -> None:
        """Release the runtime's resources."""


@dataclass(frozen=True)
class Runtime:
    """A way to run bundles.

    Parameters
    ----------
    title : str
        Its name as its makers write it.
    supports : tuple[str, ...]
        Devices that it could run on: ``cpu``, ``cuda``, ``gpu``.
    devices : Callable[[], tuple[str, ...]]
        Those of them that are here now.
    open : Callable[[Bundle, str, int], Any]
        Opens a bundle on a device with a number of threads; returns a `Session`. Raises
        `SilentFallbackError` if the session is not on that device.
    foreign_code : Callable[[Bundle], str | None]
        Names the code outside capdeploy that opening a bundle would call, if any.
    needs_bundle : bool
        True if it reads more of a bundle than its graph.
    pointless : Mapping[tuple[str, str], str]
        Precision and device that nobody would run together, and why; such rows are skipped.
    """

    title: str
    supports: tuple[str, ...]
    devices: Callable[[], tuple[str, ...]]
    open: Callable[[Bundle, str, int], Any]
    foreign_code: Callable[[Bundle], str | None] = lambda _: None
    needs_bundle: bool = False
    pointless: Mapping[tuple[str, str], str] = field(default_factory=dict)


def require_torch() -> None:
    """Stop with the command that installs torch, if it is not here; it is not imported."""
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "compress")


def foreign_code(bundle: Bundle) -> str | None:
    """Name the code outside capdeploy that rebuilding a bundle's network would call, if any."""
    architecture = bundle.manifest.checkpoint.architecture
    return architecture.name if architecture.source == "factory" else None


RUNTIMES: Catalog[Runtime] = Catalog("capdeploy.runtimes", "RUNTIME", "runtime")

"""The options of ``gate``, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from capdeploy.cli._options import Finite, Words

if TYPE_CHECKING:
    from capdeploy.bench.contest import Sampling
    from capdeploy.values.profile import HardwareProfile

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
SHARE = Finite(min=0, max=1, min_open=True, max_open=True)

OPTIONS = (
    click.option("--base", type=PATH, help="What is compared with."),
    click.option("--head", type=PATH, help="What is compared."),
    click.option("--profile", default="this-host", show_default=True, help="Name or .toml file."),
    click.option("--runtimes", type=Words(),
                 help="No answer without one that is named here; default: the profile's."),
    click.option("--devices", type=Words(),
                 help="cpu, cuda, tensorrt, gpu, npu; default: the profile's."),
    click.option("--threads", type=click.IntRange(min=1), help="Default: the profile's."),
    click.option("--batch", type=click.IntRange(min=1), help="Default: the profile's."),
    click.option("--min-effect", type=SHARE, help="Smallest change that counts, for example 0.05."),
    click.option("--max-noise", type=SHARE,
                 help="Share of a latency; a machine with more noise is too noisy to judge."),
    click.option("--max-drop", type=Finite(0, 1, max_open=True),
                 help="Top-1 that may be lost, a share: 0.01 is one point."),
    click.option("--max-growth", type=Finite(0),
                 help="By how much counts (MACs, bytes, nodes) may grow, a share."),
    click.option("--blocks", type=click.IntRange(min=5), default=5, show_default=True,
                 help="Fresh processes of a row."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Of the order of runs and of the bootstrap."),
    click.option("--calibrate", type=click.IntRange(min=1), metavar="N",
                 help="Compare base with itself N times instead."),
    click.option("--history", type=PATH, help="JSON lines: read for noise, appended to."),
    click.option("--junit", type=PATH, help="Write JUnit XML here."),
    click.option("--trust-factory", is_flag=True, help="Let a bundle name code that builds it."),
    click.option("--strict", is_flag=True, help="Exit 5 if there is no answer."),
)  # fmt: skip


def options(command: Command) -> Command:
    """Add all options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def asked(flags: dict[str, Any]) -> tuple[Path, Path, HardwareProfile, Sampling]:
    """Read the two sides, the profile and how much to measure.

    Parameters
    ----------
    flags : dict[str, Any]
        The command's options.

    Returns
    -------
    tuple[Path, Path, HardwareProfile, Sampling]
        Base, head (base itself where only one is needed), profile and sampling.

    Raises
    ------
    click.UsageError
        If a side is missing.
    """
    from capdeploy import profiles, recipes, textfile
    from capdeploy.bench.contest import Sampling

    for name in ("junit", "history"):
        if flags[name] is not None:
            textfile.require_writable(flags[name], in_place=name == "history")
    if flags["calibrate"] and (flags["junit"] or flags["strict"]):
        raise click.UsageError("--calibrate judges nothing: leave out --junit and --strict")
    base, head = flags["base"], flags["head"]
    if flags["calibrate"]:
        if base and head:
            raise click.UsageError("--calibrate compares one side with itself: name only --base")
        base = head = base or head
    elif flags["history"] is not None:
        # Without a base there are only stored numbers to compare with.
        base = base or head
    if base is None or head is None:
        missing = "--head" if head is None else "--base"
        raise click.UsageError(
            f"{missing} is missing: name two bundles (or give --history to compare with stored "
            "numbers)"
        )
    profile = recipes.with_runtime(
        profiles.load(flags["profile"]),
        {name: flags[name] for name in ("runtimes", "devices", "threads", "batch")},
    )
    limits = {
        name: flags[name]
        for name in ("min_effect", "max_noise", "max_drop", "max_growth")
        if flags[name] is not None
    }
    if "min_effect" in limits:
        limits["min_effect_of"] = {}  # what is said on the command line holds everywhere
    gate = profile.gate.model_copy(update=limits)
    sampling = Sampling(blocks=flags["blocks"], seed=flags["seed"])
    return base, head, profile.model_copy(update={"gate": gate}), sampling

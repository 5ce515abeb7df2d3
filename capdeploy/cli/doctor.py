"""``capdeploy doctor``: what works on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import click

from capdeploy.cli._output import format_option, tell


@click.command()
@click.option("--quick", is_flag=True, help="Do not measure how small a slowdown can be seen.")
@format_option
def command(quick: bool, style: str) -> None:
    """Look at this machine: runtimes, extras, instruction sets, cores, memory, noise."""
    from capdeploy.bench import doctor
    from capdeploy.report.doctor import tables

    found = doctor.examine(_nothing if quick else _noise_floor)
    tell(style, found.to_json(), tables(found))
    doctor.require(found)


def _noise_floor() -> float | None:
    from capdeploy.bench import floor

    return floor.smallest_visible()


def _nothing() -> None:
    return None

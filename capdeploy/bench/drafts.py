"""Writes profiles: one to fill in, a draft of this machine, a measured align; and checks them."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from string import Template

from capdeploy import profiles
from capdeploy.bench import environment
from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError
from capdeploy.recipes import DEVICES
from capdeploy.runtimes import RUNTIMES
from capdeploy.values.environment import Environment
from capdeploy.values.profile import overlay

_TEMPLATE = Template("""\
# $title
# Write the source of each number next to it. `capdeploy profiles validate FILE` checks this file,
# `capdeploy profiles tune -o FILE` measures `align` on the device.
schema = 1
id = "$id"
$inherits
# How to tell that a machine is this device; every given line must agree. Without any, no machine is
# the device: absolute budgets then print "not evaluated on this host".
[match]
# A regular expression, searched in the processor's or board's name that `capdeploy profiles detect`
# prints. Make it strict.
$match

[device]
$device

[runtime]
$runtime

# Absolute budgets count on the device alone. Relative ones (latency_ratio, min_speed_up,
# accuracy_drop_points) compare with the head-cut network in the same runtime, so they count on any
# host. severity: "fail" or "warn".
# [budgets.latency_p50_ms]
# value = 12.0
# severity = "fail"
# [budgets.min_speed_up]
# value = 2.0
# severity = "warn"

# When `capdeploy gate` calls a difference a regression, and when a machine is too noisy to judge.
# [gate]
# min_effect = 0.05
# max_noise = 0.15
""")
_ID = re.compile(r"[a-z0-9][a-z0-9-]*")


def template(name: str, *, inherits: str | None = None, folder: Path = Path()) -> str:
    """Write a new profile to fill in: valid as it stands, every choice explained.

    Parameters
    ----------
    name : str
        Its id: lower-case letters, digits and hyphens.
    inherits : str | None
        The profile that it builds on; everything that is not written comes from there.
    folder : Path
        Where it will be; a file that it builds on is named from there.

    Returns
    -------
    str
        TOML.

    Raises
    ------
    ConfigError
        If the id has other characters, or there is no such profile to inherit from.
    """
    if inherits is not None:
        profiles.load(inherits)
        if inherits.endswith(".toml") and not Path(inherits).is_absolute():
            inherits = os.path.relpath(Path(inherits).resolve(), folder.resolve())
    mark = "# " if inherits is not None else ""
    return _fill(
        name,
        title=f"Hardware profile {name}.",
        inherits=f"inherits = {_quoted(inherits)}\n" if inherits is not None else "",
        match="# cpu_model = 'Name of the board'\n# arch = \"aarch64\"\n# min_cores = 4",
        device=f'{mark}description = ""\n{mark}arch = "any"  # x86_64, aarch64 or any\n'
        '# isa = ["asimd"]\n# cores = 4\n# memory_mib = 4096\n'
        f"{mark}align = 8  # kept widths are multiples of this",
        runtime='# runtimes = ["onnxruntime"]\n# devices = ["cpu"]\n'
        '# precision = "int8"  # that is shipped, and that a latency counts in\n'
        f"{mark}threads = 1\n{mark}batch = 1",
    )


def of_machine(here: Environment) -> str:
    """Draft the profile of a machine: its facts, with align still to be measured.

    Parameters
    ----------
    here : Environment
        The machine.

    Returns
    -------
    str
        TOML, a valid profile that matches the machine.
    """
    return _fill(
        "this-device",
        title="A draft. A hypervisor may hide what the processor is: describe the machine.",
        inherits="",
        match=f"cpu_model = {_quoted(f'^{re.escape(here.cpu_model)}$')}\n"
        f"arch = {_quoted(here.arch)}",
        device=f"description = {_quoted(here.cpu_model)}\narch = {_quoted(here.arch)}\n"
        f"isa = [{', '.join(map(_quoted, here.isa))}]\n"
        f"cores = {here.cores_allowed}  # that a process may use here\n"
        f"memory_mib = {here.memory_mib}\nalign = 8  # not measured yet",
        runtime="threads = 1\nbatch = 1",
    )


def _fill(name: str, **parts: str) -> str:
    if not _ID.fullmatch(name):
        raise ConfigError(
            f"profile id '{name}': expected lower-case letters, digits and hyphens, like my-board"
        )
    return _TEMPLATE.substitute(parts, id=name)


def _quoted(text: str) -> str:
    """Write a TOML basic string; its escapes are those of JSON, for printable text."""
    return json.dumps(text)


def with_align(text: str, align: int, note: str) -> str:
    r"""Set `align` in a profile's text, and leave all other lines as they are.

    Parameters
    ----------
    text : str
        A valid profile, TOML.
    align : int
        The channel multiple, at least 1.
    note : str
        A comment for the line: where the number comes from.

    Returns
    -------
    str
        TOML that differs in ``device.align`` alone.

    Raises
    ------
    ConfigError
        If the table is written in a way that no line can be set in (an inline table, dotted keys).

    Examples
    --------
    >>> print(with_align('[device]\narch = "any"\nalign = 8', 16, "measured"), end="")
    [device]
    align = 16  # measured
    arch = "any"
    """
    line = f"align = {align}  # {note}"
    lines = text.splitlines()
    start = next((at for at, old in enumerate(lines) if re.match(r"\s*\[device\]", old)), None)
    if start is None:
        lines += ["", "[device]", line]
    else:
        stop = next(
            (at for at in range(start + 1, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines)
        )
        body = [old for old in lines[start + 1 : stop] if not re.match(r"\s*align\s*=", old)]
        lines[start + 1 : stop] = [line, *body]
    made = "\n".join(lines) + "\n"
    before = tomllib.loads(text)
    try:
        if tomllib.loads(made) == overlay(before, {"device": {"align": align}}):
            return made
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(f"no plain [device] table to write into; set device.align = {align} by hand")


def matching(here: Environment) -> tuple[str, ...]:
    """List the shipped profiles whose device this machine is."""
    loaded = map(profiles.load, profiles.names())
    return tuple(entry.id for entry in loaded if environment.is_device(entry, here))


def check(name: str) -> tuple[str, ...]:
    """Say everything that is wrong with a profile, the names that it uses included.

    Parameters
    ----------
    name : str
        The name of a shipped profile, or the path of a TOML file.

    Returns
    -------
    tuple[str, ...]
        One line for each fault; empty if the profile is valid.
    """
    faults = profiles.findings(name)
    if faults:
        return faults
    profile = profiles.load(name)
    lists = {
        "runtime.runtimes": (profile.runtime.runtimes, RUNTIMES.names()),
        "runtime.devices": (profile.runtime.devices, DEVICES),
        "device.isa": (profile.device.isa, environment.ISA_OF_INTEREST),
    }
    return tuple(
        f"{place}: unknown name '{entry}'; {nearest(entry, tuple(known), most=20)}"
        for place, (used, known) in lists.items()
        for entry in used
        if entry not in known
    )

"""What a look at this machine found, as tables."""

from __future__ import annotations

from capdeploy.report.tables import Table
from capdeploy.values.doctor import Examination


def tables(found: Examination) -> list[Table]:
    """Show runtimes, extras, instruction sets and the machine.

    Parameters
    ----------
    found : Examination
        What was found.

    Returns
    -------
    list[Table]
        One table for each; a part that the system tells nothing of is left out.
    """
    shown = [_runtimes(found)]
    if found.extras:
        lacks = tuple(
            (
                extra.name,
                "missing" if extra.missing else "installed",
                ", ".join(extra.missing),
                extra.command if extra.missing else "",
            )
            for extra in found.extras
        )
        shown.append(Table("Extras", ("extra", "state", "missing", "to install"), lacks))
    if found.instruction_sets:
        rows = tuple(
            (entry.name, "yes" if entry.present else "no", entry.meaning)
            for entry in found.instruction_sets
        )
        shown.append(Table("Instruction sets", ("name", "here", "what it means"), rows))
    return [*shown, _machine(found)]


def _runtimes(found: Examination) -> Table:
    rows = tuple(
        (
            runtime.title,
            runtime.state,
            runtime.version or "-",
            ", ".join(runtime.devices) or "-",
        )
        for runtime in found.runtimes
    )
    problems = tuple(
        f"{runtime.title}: {runtime.problem}" for runtime in found.runtimes if runtime.problem
    )
    return Table("Runtimes", ("runtime", "state", "version", "devices"), rows, problems)


def _machine(found: Examination) -> Table:
    here = found.environment
    quota = "none" if here.cpu_quota is None else f"{here.cpu_quota:g}"
    free = found.temporary_free_mib
    floor = found.noise_floor
    rows = (
        ("CPU", f"{here.cpu_model} ({here.arch})"),
        ("GPU", ", ".join(here.gpus) or "none"),
        ("cores allowed", str(here.cores_allowed)),
        ("CPU quota, cores", quota),
        ("threads that can run at once", str(found.threads_available)),
        ("memory", f"{here.memory_mib} MiB, {found.memory_available_mib} MiB available"),
        (f"disk at {found.temporary_folder}", "unknown" if free is None else f"{free} MiB free"),
        *here.soft_keys().items(),
        ("profiles that match", ", ".join(found.profiles) or "none"),
        (
            "smallest slowdown a gate can see",
            "not measured" if floor is None else f"{floor:.1%}",
        ),
        ("fingerprint", found.fingerprint),
    )
    notes = [
        "latencies compare only between machines of the same fingerprint",
        f"telemetry: {'; '.join(found.telemetry)}",
    ]
    if not found.instruction_sets:
        notes.append("this system does not tell its instruction sets")
    return Table(f"This machine, capdeploy {found.tool_version}", ("", ""), rows, tuple(notes))

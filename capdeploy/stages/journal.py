"""A run's journal: what is finished is written down, and read back after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from capdeploy import __version__, bundle, rebuild, tensorfile, textfile, workplace
from capdeploy.bundle import digest
from capdeploy.errors import CapdeployError, ConfigError, StepFailedError
from capdeploy.export import pack
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.stages.making import Made
from capdeploy.train import reject
from capdeploy.values.journal import Begun, Finished
from capdeploy.values.recipe import Recipe

JOURNAL = ".journal"
BEGUN, FINISHED = "begun.json", "finished.json"
STATES = ("cut", "recalibrated", "reconstructed", "tuned", "rejecting")
LATER = frozenset({"bench", "bench_seconds", "max_accuracy_drop", "track", "track_folder"})
"""Keys that may change between a run and its continuation: they do not shape the networks."""


def find(
    recipe: Recipe, output: Path, say: Say, *, resume: bool
) -> tuple[Path | None, Begun | None]:
    """Look for a run that ended before its time, and read how far it has come.

    Parameters
    ----------
    recipe : Recipe
        What is asked for now.
    output : Path
        What the run was to make.
    say : Say
        Hears of one that is not gone on with.
    resume : bool
        Whether to go on with it.

    Returns
    -------
    tuple[Path | None, Begun | None]
        Its folder and its plans; None where a run begins anew.

    Raises
    ------
    ConfigError
        If it was asked for something else, or by another version.
    """
    left = workplace.unfinished(output, f"{JOURNAL}/{BEGUN}")
    if left is None:
        if resume and (busy := workplace.at_work(output, f"{JOURNAL}/{BEGUN}")) is not None:
            say.note(
                f"{busy} is a run that is still at work, or lies where there are no file locks; "
                "this one begins anew"
            )
        return None, None
    file = left / JOURNAL / BEGUN
    if not resume:
        say.note(f"a run for {output} ended before its time; --resume goes on with it")
        return None, None
    found = Begun.from_json(file.read_bytes(), source=str(file))
    if found.tool_version != __version__:
        raise ConfigError(
            f"{left} was begun by capdeploy {found.tool_version}, this is {__version__}; "
            "leave out --resume to begin anew"
        )
    old, new = found.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")
    other = [key for key in new if old[key] != new[key] and key not in LATER]
    if other:
        raise ConfigError(
            f"the unfinished run was asked for {other[0]} = {old[other[0]]}, now for "
            f"{new[other[0]]}; leave out --resume to begin anew"
        )
    return left, found


def require_same(run: Begun, full: Model) -> None:
    """Stop if checkpoint or classes are not those that an unfinished run has begun with."""
    if full.checkpoint.sha256 != run.checkpoint_sha256:
        raise ConfigError(
            f"checkpoint {full.checkpoint.file} has changed since the unfinished run was begun; "
            "leave out --resume to begin anew"
        )
    # The recipe is the same, but the files and folders that it names may have changed.
    old, new = run.classes, require_classes(full)
    if old != new:
        raise ConfigError(
            f"the unfinished run kept the classes {', '.join(old.names)} (outputs "
            f"{', '.join(map(str, old.kept))}), now {', '.join(new.names)} (outputs "
            f"{', '.join(map(str, new.kept))}) are chosen; leave out --resume to begin anew"
        )


class Journal:
    """Keeps what one run has finished, in its own temporary folder.

    Parameters
    ----------
    work : Path
        The run's folder, which holds a folder for each network.
    full : Model
        The network as it came.
    """

    def __init__(self, work: Path, full: Model) -> None:
        self._work, self._full = work, full
        self._folder = work / JOURNAL

    def begin(self, run: Begun) -> None:
        """Write down the plans."""
        self._folder.mkdir(exist_ok=True)
        textfile.replace(self._folder / BEGUN, run.to_json())

    def keep(self, made: Made) -> None:
        """Write down a network; the record comes last, and only a whole one counts."""
        if made.exported is None:
            raise ValueError(f"{made.name} is not exported yet")
        folder = self._folder / made.name
        folder.mkdir()
        present = [name for name in STATES if getattr(made, name) is not None]
        for name in present:
            state = getattr(made, name).module.state_dict()
            tensorfile.save(state, folder / f"{name}.safetensors")
        record = Finished(
            name=made.name, plan=made.plan, states=tuple(present), cut_stage=made.cut_stage,
            digests=self._digests(made.name, present), training=made.training, earlier=made.earlier,
            artifact=made.exported.artifact, denormals_flushed=made.exported.denormals_flushed,
        )  # fmt: skip
        textfile.replace(folder / FINISHED, record.to_json())

    def recall(self, name: str) -> Made | None:
        """Read a network back, bit by bit as it was; None if it has to be made (again).

        Parameters
        ----------
        name : str
            Of the network.

        Returns
        -------
        Made | None
            The network and all its states; its folder then holds the graph alone.
        """
        record, folder = self._folder / name / FINISHED, self._work / name
        try:
            found = Finished.from_json(record.read_bytes(), source=str(record))
            if found.digests != self._digests(name, found.states):
                raise StepFailedError(f"what is kept of {name} is damaged")
            base = apply.cut(self._full, found.plan)
            states = {
                state: self._state(base, found, record.parent / f"{state}.safetensors")
                for state in found.states
            }
        except (OSError, CapdeployError):
            # Not there, or damaged when the machine went down: it is made again.
            shutil.rmtree(record.parent, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        for path in folder.iterdir():
            if path.name != bundle.GRAPH:  # of a seal that did not come to its end
                path.unlink()
        exported = pack.Exported(found.artifact, found.denormals_flushed)
        return Made(
            name, found.plan, **states, training=found.training, earlier=found.earlier,
            exported=exported, cut_stage=found.cut_stage,
        )  # fmt: skip

    def _digests(self, name: str, states: Sequence[str]) -> dict[str, str]:
        files = [self._folder / name / f"{state}.safetensors" for state in states]
        return {file.name: digest(file) for file in (*files, self._work / name / bundle.GRAPH)}

    def _state(self, base: Model, found: Finished, file: Path) -> Model:
        origin, plan = self._full.checkpoint, found.plan
        if file.stem == "rejecting":
            plan = reject.extended(plan, base.head, require_classes(base), plan.after)
        network = rebuild.from_plan(origin.architecture, origin.outputs, plan, file)
        return base.with_module(network.to(base.device))


def salvage(work: Path, say: Say) -> bool:
    """Tell whether a run that failed has finished a network, which is kept then."""
    done = sorted(path.parent.name for path in (work / JOURNAL).glob(f"*/{FINISHED}"))
    if done:
        say.note(f"finished: {', '.join(done)}; the same command with --resume goes on from there")
    return bool(done)

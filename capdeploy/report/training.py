"""What a training did, as tables and as a page."""

from __future__ import annotations

import shlex
from pathlib import Path

from capdeploy.report import figures
from capdeploy.report.page import Page
from capdeploy.report.sections import Figure, Section
from capdeploy.report.tables import Table, percent
from capdeploy.values.training import FILE, RECIPE, TrainReport


def read(folder: Path) -> TrainReport:
    """Read the record that ``capdeploy train`` left in a folder.

    Parameters
    ----------
    folder : Path
        Its output.

    Returns
    -------
    TrainReport
        The record.

    Raises
    ------
    ConfigError
        If it is not valid.
    """
    file = folder / FILE
    return TrainReport.from_json(file.read_bytes(), source=str(file))


def page(report: TrainReport, folder: Path, *, plots: bool) -> Page:
    """Put the report of a training together.

    Parameters
    ----------
    report : TrainReport
        The record.
    folder : Path
        Where it lies.
    plots : bool
        Draw the curve too; that needs matplotlib.

    Returns
    -------
    Page
        The curve, and the accuracy of the best state by class.

    Raises
    ------
    MissingExtraError
        If matplotlib is wanted and not installed.
    """
    curve, summary = tables(report, folder)
    classes = tuple(
        (each.name, f"{each.correct}/{each.images}")
        for each in sorted(report.test.classes, key=lambda each: each.top1)
    )
    drawn = []
    if plots:
        drawn = [Figure("Loss and accuracy by epoch.", figures.training(report.training))]
    return Page(
        title=f"{report.origin.architecture}: trained on {len(report.origin.labels)} classes",
        verdict=f"{percent(report.test)} on {report.test.images} test images", good=True,
        facts=[("top-1", f"{report.test.top1:.1%}"), ("epochs", str(len(report.training.epochs)))],
        sections=[
            Section("Training", [curve], drawn),
            Section("The best state", [summary, Table("Worst class first", ("class", "right"),
                                                      classes)]),
        ],
        command=f"capdeploy train -c {shlex.quote(f'{folder}/{RECIPE}')} -o OUT",
    )  # fmt: skip


def tables(report: TrainReport, folder: Path) -> list[Table]:
    """Show the curve, and the accuracy of the best state."""
    training, test = report.training, report.test
    curve = tuple(
        (
            f"{epoch.number}{' (best)' if epoch.number == training.best_epoch else ''}",
            f"{epoch.loss:.3f}",
            f"{epoch.validation_top1 * 100:.1f} %",
            f"{epoch.learning_rate:.1e}",
            f"{epoch.seconds:.0f} s",
        )
        for epoch in training.epochs
    )
    worst = test.worst
    rows = (
        ("test accuracy, best state", f"{percent(test)}, n = {test.images}"),
        ("worst class", f"{worst.name}: {worst.correct}/{worst.images}"),
        ("best epoch", f"{training.best_epoch} of {len(training.epochs)}"),
        ("learning rate", f"{training.learning_rate:.1e}"),
        ("device", report.device),
        ("use it", f"capdeploy compress {folder / 'best.safetensors'} --data ..."),
    )
    return [
        Table(
            f"Training: {training.validation_images} validation images",
            ("epoch", "loss", "validation top-1", "last rate", "time"),
            curve,
        ),
        Table(str(report.origin.architecture), ("", ""), rows),
    ]

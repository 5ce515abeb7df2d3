"""What a training did, as tables."""

from __future__ import annotations

from pathlib import Path

from capdeploy.report.tables import Table, percent
from capdeploy.values.training import TrainReport


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

"""How far answers can be trusted: confidence, and images of classes that nobody kept."""

from __future__ import annotations

from collections.abc import Iterator

from capdeploy.report.sections import Section
from capdeploy.report.tables import Table
from capdeploy.values.report import RunReport
from capdeploy.values.trust import Trust


def shown(report: RunReport) -> list[Section]:
    """Show how far confidence can be believed, and what becomes of images of other classes."""
    known = list(_trusted(report))
    if not known:
        return []
    rows = []
    for name, fitted in known:
        refused = fitted.rejection
        cells = ("-",) * 4
        if refused is not None:
            cells = (
                f"{refused.score} (AUROC {refused.auroc[refused.score]:.3f})",
                f"{refused.accepted_kept:.1%}", f"{refused.accepted_dropped:.1%}",
                str(refused.dropped_images),
            )  # fmt: skip
        rows.append((name, f"{fitted.temperature:.2f}", f"{fitted.ece_before:.3f}",
                     f"{fitted.ece_after:.3f}", *cells))  # fmt: skip
    columns = ("model", "temperature", "calibration error", "calibrated", "told apart by",
               "kept accepted", "dropped accepted", "dropped images")  # fmt: skip
    note = (
        "expected calibration error over 15 bins and shares on the test split; temperature and "
        "threshold fitted on held-out training images, 95 % of the kept ones accepted there (a "
        "reject output decides by itself)"
    )
    tables = [Table("Confidence, and images of dropped classes", columns, tuple(rows), (note,))]
    apart = tuple(
        (name, score, f"{fitted.rejection.auroc[score]:.3f}", f"{share:.1%}")
        for name, fitted in known if fitted.rejection is not None
        for score, share in fitted.rejection.false_accepts.items()
    )  # fmt: skip
    if apart:
        title = "Ways to tell images of dropped classes"
        heads = ("model", "by", "AUROC", "accepted where 95 % of the kept are")
        tables.append(Table(title, heads, apart))
    taken = {
        name: map(str, fitted.rejection.taken_for)
        for name, fitted in known if fitted.rejection is not None
    }  # fmt: skip
    if taken:
        rows = list(zip(report.classes.names, *taken.values(), strict=True))
        title = "What images of dropped classes are taken for, images by network"
        tables.append(Table(title, ("class", *taken), tuple(rows)))
    return [Section("Trust", tables)]


def _trusted(report: RunReport) -> Iterator[tuple[str, Trust]]:
    for metrics in report.models:
        if metrics.trust is not None:
            yield metrics.name, metrics.trust
        for each in metrics.quantized:
            if each.trust is not None:
                yield f"{metrics.name}, {each.precision} in {each.runtime}", each.trust

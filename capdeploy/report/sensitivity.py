"""Sensitivity curves as a table and as a plot."""

from __future__ import annotations

from capdeploy.report import sections
from capdeploy.report.page import Page
from capdeploy.report.sections import Section
from capdeploy.report.tables import Table
from capdeploy.values.sensitivity import SensitivityReport


def table(report: SensitivityReport) -> Table:
    """List every group's harm at the measured shares, the most sensitive first."""
    note = f"channels dropped in the order of {report.strategy}; {report.images} training images"
    return sections.sensitivity_table(report.curves, (note,))


def page(report: SensitivityReport, command: str) -> Page:
    """Put the curves on a page of their own.

    Parameters
    ----------
    report : SensitivityReport
        What was measured.
    command : str
        What repeats it.

    Returns
    -------
    Page
        Plot and table.
    """
    worst = max(report.curves, key=lambda curve: curve.at(0.5))
    mildest = min(report.curves, key=lambda curve: curve.at(0.5))
    return Page(
        title=f"{report.checkpoint.architecture}: sensitivity of {len(report.curves)} groups",
        verdict=f"halving {worst.group} changes the answers most, halving {mildest.group} least",
        good=True,
        facts=[("groups", str(len(report.curves))), ("images", str(report.images))],
        sections=[
            Section(
                "One group at a time", [table(report)], [sections.sensitivity_figure(report.curves)]
            )
        ],
        command=command,
    )

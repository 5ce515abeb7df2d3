"""Sensitivity curves: as a command, on a page, and in the report of a run that used them."""

import pytest

from capdeploy import pipeline, stages
from capdeploy.progress import Quiet
from capdeploy.report import html, page, sensitivity
from capdeploy.values.report import RunReport
from capdeploy.values.sensitivity import LEVELS, Curve, SensitivityReport
from tests.commands import base, capdeploy
from tests.conftest import recipe
from tests.street.test_report import checked


@pytest.fixture(scope="module")
def measured(trained):
    return stages.sensitivity(recipe(trained, sensitivity_images=64), Quiet())


def test_every_curve_begins_at_nothing_and_never_falls(measured):
    assert {curve.group for curve in measured.curves} >= {"stem", "conv1"}
    for curve in measured.curves:
        assert curve.harms[0] == 0
        assert list(curve.harms) == sorted(curve.harms)
        assert curve.at(0.5) == curve.harms[round(curve.width / 2)]
    assert max(curve.at(0.5) for curve in measured.curves) > 0.001


def test_a_curve_of_another_length_is_refused():
    with pytest.raises(ValueError, match="x: 2 values for 4 channels"):
        Curve(group="x", width=4, harms=(0.0, 1.0))


def test_the_page_is_whole_and_the_worst_group_comes_first(measured):
    made = sensitivity.page(measured, "capdeploy sensitivity x")
    assert checked(html.render(made)).tags.count("svg") == 1
    [table] = made.sections[0].tables
    halves = [float(row[2 + LEVELS.index(0.5)]) for row in table.rows]
    assert halves == sorted(halves, reverse=True)
    assert table.rows[0][0] in made.verdict


def test_the_command(trained, tmp_path):
    words = list(base(trained, "-o", tmp_path / "page.html", "-f", "json"))
    words[0] = "sensitivity"
    done = capdeploy(*words)
    assert done.returncode == 0, done.stderr
    assert SensitivityReport.from_json(done.stdout).images > 64
    assert "capdeploy sensitivity" in (tmp_path / "page.html").read_text()
    again = capdeploy(*words)
    assert again.returncode == 2
    assert "add --force" in again.stderr


def test_a_run_that_goes_by_curves_shows_them(trained, tmp_path):
    wanted = recipe(trained, allocation="sensitivity", epochs=0, sensitivity_images=64)
    report = pipeline.compress(wanted, tmp_path / "out", Quiet())
    assert RunReport.from_json(report.to_json()).sensitivity == report.sensitivity != ()
    titles = [section.title for section in page.page(report, {}, "OUT", plots=False).sections]
    assert "Sensitivity" in titles

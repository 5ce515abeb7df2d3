"""A report as one HTML file that asks nothing of the network."""

from __future__ import annotations

from importlib import resources

from capdeploy.errors import MissingExtraError
from capdeploy.report import markdown
from capdeploy.report.page import Page


def render(page: Page) -> str:
    """Write a page as HTML; styles and figures are inside, and there is no script.

    Parameters
    ----------
    page : Page
        What to write.

    Returns
    -------
    str
        The document. Whatever comes from data (class names, paths) is escaped.

    Raises
    ------
    MissingExtraError
        If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    template = resources.files("capdeploy.report").joinpath("template.html")
    source = template.read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(page=page)


def plain(page: Page) -> str:
    """Write a page as Markdown; figures are left out."""
    lines = [f"# {page.title}", "", ("" if page.good else "**Failed:** ") + page.verdict, ""]
    lines += [f"- {label}: {value}" for label, value in page.facts]
    for section in page.sections:
        lines += ["", f"## {section.title}", "", *section.text]
        lines += ["\n" + markdown.render(table) for table in section.tables]
    return "\n".join([*lines, "", "## To repeat it", "", f"    {page.command}", ""])

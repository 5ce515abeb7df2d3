"""Tables on a terminal: words stay words, whatever they look like."""

import io

from rich.console import Console

from capdeploy.report import text
from capdeploy.report.tables import Table


def test_names_are_not_markup():
    table = Table(
        "model[fp32] against [/y]", ("name", "[lr]/plan.json"), (("[b]x", "1"),), ("[i]",)
    )
    shown = io.StringIO()
    text.render(table, Console(file=shown, width=120))
    found = " ".join(shown.getvalue().split())  # a title is as wide as its table
    for words in ("model[fp32] against [/y]", "[lr]/plan.json", "[b]x", "[i]"):
        assert words in found

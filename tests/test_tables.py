"""Tables on a terminal: words stay words, whatever they look like."""

import io

import pytest
from rich.console import Console

from capdeploy.report import markdown, text
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


@pytest.mark.parametrize("name", ["\x1b[2Jstop", "caf\udce9.jpg"])
def test_no_name_steers_the_terminal_or_cannot_be_written(name):
    table = Table(f"of {name}", ("name",), ((name,),), (name,))
    shown = io.StringIO()
    text.render(table, Console(file=shown, width=120))
    for found in (shown.getvalue(), markdown.render(table)):
        assert found.isascii() or found.encode()
        assert "\x1b" not in found
        assert found.count(repr(name)[1:-1]) == 3

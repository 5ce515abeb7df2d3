"""What a library would import unasked."""

import sys

import pytest

from capdeploy.absent import without


def test_a_package_is_kept_out_only_meanwhile():
    assert "this" not in sys.modules
    with without("this"), pytest.raises(ImportError):
        __import__("this")
    assert "this" not in sys.modules
    with without("json"):  # is here already, and stays
        assert __import__("json") is sys.modules["json"]

"""Slow re-implementations from the papers, loop by loop, to check the fast ones against."""

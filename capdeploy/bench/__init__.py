"""Measuring bundles on this machine. No torch here: a runtime brings its own."""

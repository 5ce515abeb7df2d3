"""Telling: text and Markdown from the JSON of a run."""
